// Virtual time, installed before a page's own scripts: its timers, dates, animation frames and random
// numbers depend on the steps taken and on nothing else. `window[Symbol.for("agentgym")]` moves time.
(() => {
  "use strict";
  const EPOCH = Date.UTC(2017, 0, 2, 12, 0, 0);
  const FRAME_MS = 16;
  const MAX_CALLS = 20000;
  const RealDate = Date;

  let now = 0; // ms since EPOCH
  let nextId = 1;
  let order = 0;
  let drew = false;
  const timers = new Map(); // id -> {id, due, order, every, call}

  function add(delay, every, call) {
    const id = nextId++;
    timers.set(id, { id, due: now + delay, order: order++, every, call });
    return id;
  }
  function callable(handler, args) {
    return typeof handler === "function" ? () => handler(...args) : () => (0, eval)(String(handler));
  }
  const delayOf = (ms, least) => Math.max(least, Number(ms) || 0);

  window.setTimeout = (handler, ms, ...args) => add(delayOf(ms, 1), 0, callable(handler, args));
  window.setInterval = (handler, ms, ...args) =>
    add(delayOf(ms, 4), delayOf(ms, 4), callable(handler, args));
  window.clearTimeout = window.clearInterval = (id) => void timers.delete(id);
  window.requestAnimationFrame = (handler) =>
    add(FRAME_MS - (now % FRAME_MS), 0, () => {
      drew = true;
      handler(now);
    });
  window.cancelAnimationFrame = (id) => void timers.delete(id);

  const dateNow = () => EPOCH + Math.floor(now);
  window.Date = new Proxy(RealDate, {
    construct: (target, args, self) =>
      Reflect.construct(target, args.length ? args : [dateNow()], self),
    apply: () => new RealDate(dateNow()).toString(),
    get: (target, key) => (key === "now" ? dateNow : Reflect.get(target, key)),
  });
  RealDate.prototype.constructor = window.Date;
  performance.now = () => now;

  // What the browser would animate by itself, in real time.
  const still = new CSSStyleSheet();
  still.replaceSync(
    "*, ::before, ::after { transition: none !important; animation: none !important;" +
      " caret-color: transparent !important; scroll-behavior: auto !important; }"
  );
  document.adoptedStyleSheets = [still];

  let state = 0x9e3779b9; // mulberry32, until the page is given a seed
  Math.random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };

  function first(until) {
    let best = null;
    for (const timer of timers.values()) {
      if (timer.due > until) continue;
      if (!best || timer.due < best.due || (timer.due === best.due && timer.order < best.order)) {
        best = timer;
      }
    }
    return best;
  }
  function run(timer) {
    now = Math.max(now, timer.due);
    if (timer.every) {
      timer.due = now + timer.every;
      timer.order = order++;
    } else {
      timers.delete(timer.id);
    }
    try {
      timer.call();
    } catch (error) {
      reportError(error);
    }
  }

  // Whether a frame would change something: the browser finds out what is under the resting mouse, and
  // tells of scrolling, with its next one. `hover` is whether there are styles for what is under the
  // mouse, which is at `mouse`.
  function due(hover, mouse) {
    const listened = window[Symbol.for("agentgym.moving")];
    if (listened?.scroll) return true;
    return Boolean((hover || listened?.hover) && window[Symbol.for("agentgym.stale")](mouse));
  }

  let goal = 0; // until when time passes,
  let calls = 0; // what has run meanwhile,
  let shown = true; // and whether the frame at its end was asked for

  // Let `ms` pass; animations may show after each `slice` of it. Returns whether a frame must come
  // now, after which `proceed` goes on.
  function advance(ms, slice, hover, mouse) {
    goal = now + ms;
    calls = 0;
    shown = false;
    return proceed(slice, hover, mouse);
  }
  function proceed(slice, hover, mouse) {
    while (now < goal) {
      const until = Math.min(goal, now + slice);
      drew = false;
      let timer;
      while (calls++ < MAX_CALLS && (timer = first(until))) run(timer);
      now = until;
      if (drew && now < goal && due(false, mouse)) return true;
    }
    if (shown) return false;
    shown = true;
    return due(hover, mouse);
  }
  // Back to the start, once what is under way has come to its end.
  function rewind() {
    const end = now + 5000;
    let calls = 0;
    let timer;
    while (calls++ < MAX_CALLS && (timer = first(end))) run(timer);
    for (const each of timers.values()) each.due -= now;
    now = 0;
  }

  Object.defineProperty(window, Symbol.for("agentgym"), {
    value: Object.freeze({ advance, proceed, rewind }),
  });
})();
