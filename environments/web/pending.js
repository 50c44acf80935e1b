// Installed before a page's own scripts, where time is real: remembers which timers and frames the page
// waits for, and tells `observe.js` when it asks, see `rest` there. Everything still runs when it would.
(() => {
  "use strict";
  const MAX_MS = 300; // a timer that is due later is not waited for,
  const MAX_DEPTH = 2; // nor one that was set by a timer's timer: such a chain may never end
  const FAST_MS = 50; // an interval that is shorter is looked for
  const MICROTASKS = 8; // that what a timer has begun may take

  const { setTimeout, clearTimeout, setInterval, clearInterval } = window;
  const { requestAnimationFrame, cancelAnimationFrame } = window;
  const microtask = queueMicrotask.bind(window);
  const { addEventListener, dispatchEvent } = EventTarget.prototype;
  const timers = new Set();
  const intervals = new Set();
  const frames = new Set();
  let observes = false; // what is in view or has another size: only told with a frame
  let depth = 0; // of the timer that runs

  const ebb = (left) => {
    if (left) microtask(() => ebb(left - 1));
    else depth = 0;
  };
  function within(own, handler) {
    return function (...args) {
      depth = own;
      try {
        return handler.apply(this, args);
      } finally {
        ebb(MICROTASKS);
      }
    };
  }

  window.setTimeout = function (handler, ms, ...args) {
    if (typeof handler !== "function") return setTimeout.call(window, handler, ms, ...args);
    const own = depth + 1;
    const run = within(own, handler);
    const once = function (...given) {
      timers.delete(id);
      return run.apply(this, given);
    };
    const id = setTimeout.call(window, once, ms, ...args);
    if (own <= MAX_DEPTH && !(Number(ms) > MAX_MS)) timers.add(id);
    return id;
  };
  window.setInterval = function (handler, ms, ...args) {
    const often = typeof handler === "function" ? within(MAX_DEPTH, handler) : handler;
    const id = setInterval.call(window, often, ms, ...args);
    if (!(Number(ms) > FAST_MS)) intervals.add(id);
    return id;
  };
  window.clearTimeout = window.clearInterval = function (id) {
    timers.delete(id);
    intervals.delete(id);
    clearTimeout.call(window, id);
    clearInterval.call(window, id);
  };
  window.requestAnimationFrame = function (handler) {
    const id = requestAnimationFrame.call(window, function (now) {
      frames.delete(id);
      return handler.call(this, now);
    });
    frames.add(id);
    return id;
  };
  window.cancelAnimationFrame = function (id) {
    frames.delete(id);
    cancelAnimationFrame.call(window, id);
  };
  for (const name of ["IntersectionObserver", "ResizeObserver"]) {
    window[name] = new Proxy(window[name], {
      construct(target, args, self) {
        observes = true;
        return Reflect.construct(target, args, self);
      },
    });
  }

  addEventListener.call(document, "agentgym:pending", () => {
    const { hover, scroll } = window[Symbol.for("agentgym.moving")];
    if (timers.size) dispatchEvent.call(document, new Event("agentgym:timers"));
    if (frames.size || intervals.size || observes || hover || scroll) {
      dispatchEvent.call(document, new Event("agentgym:frames"));
    }
  });
})();
