// Installed before the page's own scripts: remembers which elements listen to the mouse, and tells
// `observe.js`, which lives in another world and cannot see listeners. Nothing is written to the DOM.
(() => {
  "use strict";
  const MOUSE = new Set(["click", "dblclick", "mousedown", "mouseup", "pointerdown", "touchstart"]);
  const MOVING = new Set([
    "mouseenter", "mouseleave", "mouseover", "mouseout",
    "pointerenter", "pointerleave", "pointerover", "pointerout",
  ]);
  const SCROLLING = new Set(["scroll", "scrollend", "resize"]);
  // By which a page could tell keys from a text that is there at once.
  const KEYS = new Set([
    "keydown", "keypress", "keyup", "beforeinput", "input", "textInput", "select", "selectionchange",
    "compositionstart", "compositionupdate", "compositionend",
  ]);
  const heard = new WeakMap(); // element -> Map(type -> Set(listener))
  let known = []; // WeakRefs of the elements in `heard`
  const moving = { hover: false, scroll: false }; // who listens to what comes with the next frame
  let keyed = false; // whether anything ever listened to keys

  const { addEventListener, removeEventListener, dispatchEvent } = EventTarget.prototype;

  function note(element, type, listener) {
    if (MOVING.has(type)) moving.hover = true;
    if (SCROLLING.has(type)) moving.scroll = true;
    if (KEYS.has(type)) keyed = true;
    if (!listener || !MOUSE.has(type) || !(element instanceof Element)) return;
    let types = heard.get(element);
    if (!types) {
      heard.set(element, (types = new Map()));
      known.push(new WeakRef(element));
    }
    if (!types.has(type)) types.set(type, new Set());
    types.get(type).add(listener);
  }
  function forget(element, type, listener) {
    heard.get(element)?.get(type)?.delete(listener);
  }

  EventTarget.prototype.addEventListener = function (type, listener, ...rest) {
    note(this, type, listener);
    return addEventListener.call(this, type, listener, ...rest);
  };
  EventTarget.prototype.removeEventListener = function (type, listener, ...rest) {
    forget(this, type, listener);
    return removeEventListener.call(this, type, listener, ...rest);
  };
  for (const prototype of [HTMLElement.prototype, SVGElement.prototype, Document.prototype, window]) {
    for (const type of [...MOUSE, ...MOVING, ...SCROLLING, ...KEYS]) {
      const own = Object.getOwnPropertyDescriptor(prototype, `on${type}`);
      if (!own?.set) continue;
      Object.defineProperty(prototype, `on${type}`, {
        ...own,
        set(handler) {
          heard.get(this)?.get(type)?.clear();
          if (typeof handler === "function") note(this, type, handler);
          own.set.call(this, handler);
        },
      });
    }
  }

  // The isolated world asks with one event on the document; each listening element answers with
  // one, which the isolated world stops before any listener of the page.
  addEventListener.call(document, "agentgym:ask", () => {
    known = known.filter((ref) => ref.deref());
    for (const ref of known) {
      const element = ref.deref();
      if (!element?.isConnected) continue;
      for (const listeners of heard.get(element).values()) {
        if (listeners.size) {
          dispatchEvent.call(element, new Event("agentgym:listens", { composed: true }));
          break;
        }
      }
    }
  });
  addEventListener.call(document, "agentgym:keys", () => {
    if (!keyed) dispatchEvent.call(document, new Event("agentgym:unheard"));
  });
  Object.defineProperty(window, Symbol.for("agentgym.moving"), { get: () => moving });
})();
