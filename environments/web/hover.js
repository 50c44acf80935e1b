// In both worlds: whether the browser still has to find out what is under the resting mouse. It does
// so with its next frame, after things have moved; until then `:hover` tells what was there before.
(() => {
  "use strict";
  const under = (top, e) =>
    e.contains(top) || [...(e.labels || [])].some((label) => label.contains(top));
  const stale = (mouse) => {
    if (!mouse) return false; // it has never been moved
    const top = document.elementFromPoint(mouse[0], mouse[1]);
    if (top && !top.matches(":hover")) return true;
    return [...document.querySelectorAll(":hover")].some((e) => !top || !under(top, e));
  };
  Object.defineProperty(globalThis, Symbol.for("agentgym.stale"), { value: stale });
})();
