// Numbers the elements of a page as BrowserGym does, without writing to it: ids live in a WeakMap.
// Runs in the isolated world, after `observe.js`, which then finds elements by these ids.
(() => {
  "use strict";
  const STANDARD = new Set(
    `a abbr acronym address applet area article aside audio b base basefont bdi bdo big blockquote
    body br button canvas caption center cite code col colgroup data datalist dd del details dfn
    dialog dir div dl dt em embed fieldset figcaption figure font footer form frame frameset h1 h2
    h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li link main map
    mark menu meta meter nav noframes noscript object ol optgroup option output p param picture pre
    progress q rp rt ruby s samp script search section select small source span strike strong style
    sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul
    var video wbr`.split(/\s+/)
  );
  const MARKED = new Set(
    ["input", "textarea", "select", "button", "a", "iframe", "video", "li", "td", "option"]
  );
  const BUTTONS = 'button, a, input[type="button"], div[role="button"]';
  const MIN_MARKED_AREA = 20;

  const bids = new WeakMap(); // element -> bid
  const counters = new WeakMap(); // document -> how many numbers and letters it has given

  // "a" to "z", "aA" to "zZ" (the last letter fastest), and so on.
  function letters(n) {
    let text = "";
    for (let size = 26, length = 1; ; size *= 26, length++) {
      if (n < size) {
        for (let i = 0; i < length; i++, n = Math.floor(n / 26)) {
          const letter = String.fromCharCode(97 + (n % 26));
          text = (i < length - 1 ? letter.toUpperCase() : letter) + text;
        }
        return text;
      }
      n -= size;
    }
  }

  function bidOf(element, tag, prefix) {
    let bid = bids.get(element);
    if (bid === undefined) {
      const page = element.ownerDocument;
      let given = counters.get(page);
      if (!given) counters.set(page, (given = { numbers: 0, frames: 0 }));
      const frame = tag === "iframe" || tag === "frame";
      bid = prefix + (frame ? letters(given.frames++) : String(given.numbers++));
      bids.set(element, bid);
      agentgym.adopt(bid, element);
    }
    return bid;
  }

  const meet = (a, b) => ({
    left: Math.max(a.left, b.left), top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right), bottom: Math.min(a.bottom, b.bottom),
  });

  // What can be seen of an element's content, for its children: through the viewport and whatever
  // cuts or scrolls around it. Elements out of the flow are only cut by what positions them.
  function clipped(clip, element, style) {
    const { overflow, position } = style;
    let cut = position === "fixed" ? clip.port : position === "absolute" ? clip.positioned : clip.cut;
    if (overflow !== "visible" && element !== element.ownerDocument.body &&
        element !== element.ownerDocument.documentElement) {
      const r = element.getBoundingClientRect();
      const [x, y] = [r.left + element.clientLeft, r.top + element.clientTop];
      const inner = element.clientWidth || element.clientHeight
        ? { left: x, top: y, right: x + element.clientWidth, bottom: y + element.clientHeight } : r;
      cut = meet(cut, inner);
    }
    const holds = position !== "static" || style.transform !== "none";
    return { port: clip.port, cut, positioned: holds ? cut : clip.positioned };
  }

  // The share of an element's box that can be seen, as an IntersectionObserver would tell.
  function visibility(element, style, clip) {
    if (!element.getClientRects().length) return 0;
    const r = element.getBoundingClientRect();
    const position = style.position;
    const cut = position === "fixed" ? clip.port : position === "absolute" ? clip.positioned : clip.cut;
    const seen = meet(r, cut);
    const [w, h] = [seen.right - seen.left, seen.bottom - seen.top];
    if (w < 0 || h < 0) return 0;
    const area = r.width * r.height;
    return area ? Math.round(((w * h) / area) * 100) / 100 : 1;
  }

  function topAt(page, x, y) {
    let top = page.elementFromPoint(x, y);
    while (top?.shadowRoot) {
      const inner = top.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === top) break;
      top = inner;
    }
    return top;
  }

  // Whether a click on the middle goes to the element, and it looks as if that did something.
  function clickable(element, tag, style, listening) {
    if (!(MARKED.has(tag) || listening.has(element) || style.cursor === "pointer")) return false;
    const r = element.getBoundingClientRect();
    if (r.width * r.height < MIN_MARKED_AREA) return false;
    const page = element.ownerDocument;
    const top = topAt(page, (r.left + r.right) / 2, (r.top + r.bottom) / 2);
    return Boolean(top) && element.contains(top);
  }

  class Marking {
    constructor(all, listening) {
      this.all = all;
      this.listening = listening;
      this.buttons = []; // marked ones, whose content is not marked again
      this.marked = new Map(); // element -> its row
    }

    document(page, prefix, view) {
      const port = { left: 0, top: 0, right: view.innerWidth, bottom: view.innerHeight };
      const rows = [];
      const clip = { port, cut: port, positioned: port };
      for (const child of page.children) this.walk(child, prefix, clip, rows);
      return rows;
    }

    walk(element, prefix, clip, rows) {
      const tag = element.localName.toLowerCase();
      const style = getComputedStyle(element);
      const row = { tag, bid: "", seen: 0, marked: false };
      rows.push(row);
      if (this.all || STANDARD.has(tag)) {
        row.bid = bidOf(element, tag, prefix);
        row.seen = visibility(element, style, clip);
        if (element.value !== undefined) row.value = String(element.value);
        if (typeof element.checked === "boolean") row.checked = element.checked;
        this.mark(element, tag, style, row);
      }
      const inner = clipped(clip, element, style);
      if (element.shadowRoot) {
        for (const child of element.shadowRoot.children) this.walk(child, prefix, inner, rows);
      }
      for (const child of element.children) this.walk(child, prefix, inner, rows);
      const page = tag === "iframe" || tag === "frame" ? element.contentDocument : null;
      if (page) row.inside = this.document(page, row.bid || prefix, page.defaultView);
    }

    mark(element, tag, style, row) {
      if (!clickable(element, tag, style, this.listening)) return;
      if (this.buttons.some((button) => button.contains(element))) return;
      const parent = element.parentElement;
      const only = parent?.localName === "span" && parent.children.length === 1;
      if (only && parent.getAttribute("role") && this.marked.get(parent)?.marked) return;
      row.marked = true;
      this.marked.set(element, row);
      if (element.matches(BUTTONS)) this.buttons.push(element);
      for (let e = parent; e; e = e.parentElement) {
        const above = this.marked.get(e);
        if (above) above.marked = false;
      }
    }
  }

  function focused() {
    let active = document.activeElement;
    for (;;) {
      const inner = active?.shadowRoot?.activeElement || active?.contentDocument?.activeElement;
      if (!inner) return (active && bids.get(active)) || "";
      active = inner;
    }
  }

  // `handlers`: which elements of the document, counted in order, have an onclick handler. That is
  // known to the page's own world only.
  agentgym.mark = (all, handlers) => {
    const elements = handlers.length ? document.querySelectorAll("*") : [];
    const marking = new Marking(all, new Set(handlers.map((index) => elements[index])));
    return { rows: marking.document(document, "", window), focused: focused() };
  };
})();
