// One look at the page, from an isolated world: reads the DOM, never writes to it. Also finds the
// point to click, and prepares fields for typing.
(() => {
  "use strict";
  const MAX_NAME = 300;
  const MAX_VALUE = 2000;
  const MAX_ELEMENTS = 5000;
  const MAX_LEVELS = 800; // of elements inside each other; the stack holds a few times as many
  const MAX_TEXT = 20000; // of one piece of text that is looked at

  const SKIPPED = new Set(["script", "style", "noscript", "template", "head", "link", "meta", "datalist"]);
  const SHAPES = new Set([
    "circle", "ellipse", "rect", "polygon", "polyline", "path", "line", "text", "image", "use",
  ]);
  const TAG_ROLES = {
    a: "link", button: "button", textarea: "textbox", summary: "button", img: "image",
    canvas: "drawing", svg: "drawing",
  };
  const INPUT_ROLES = {
    button: "button", submit: "button", reset: "button", image: "button", checkbox: "checkbox",
    radio: "radio", range: "slider", number: "spinbutton", search: "searchbox", file: "file",
    color: "color", date: "date", time: "time", month: "month", week: "week",
    "datetime-local": "datetime",
  };
  // ARIA roles of things that can be acted on; other roles only give structure.
  const ACTIVE_ROLES = new Set([
    "button", "link", "checkbox", "radio", "textbox", "searchbox", "combobox", "slider", "spinbutton",
    "switch", "tab", "treeitem", "option", "menuitem", "menuitemcheckbox", "menuitemradio",
  ]);
  const NO_VALUE = new Set(["checkbox", "radio", "button", "submit", "reset", "image"]);
  const SELECTED_CLASSES = new Set(["active", "selected", "checked", "clicked", "ui-selected", "ui-state-active"]);
  const STYLING_CLASS = /^ui-(button|state|corner|widget|icon|helper|slider-handle)\b/;
  // What jQuery UI can drag, though its listener is on the list around it.
  const DRAGGED = ".ui-sortable-handle, .ui-draggable-handle, .ui-selectee";
  const LISTS = new Set(["ul", "ol", "menu", "table", "tbody", "thead", "tr", "form", "body"]);
  const KEPT_ATTRIBUTES = new Set([
    "id", "class", "name", "type", "placeholder", "title", "href", "alt", "value", "style", "fill", "stroke",
    "data-index", "data-color", "data-result", "cx", "cy", "r", "x", "y", "x1", "y1", "x2", "y2",
    "width", "height", "points", "font-size", "min", "max",
  ]);
  const COLORS = {
    black: [0, 0, 0], white: [255, 255, 255], gray: [128, 128, 128], red: [255, 0, 0],
    green: [0, 128, 0], lime: [0, 255, 0], blue: [0, 0, 255], yellow: [255, 255, 0],
    orange: [255, 165, 0], purple: [128, 0, 128], magenta: [255, 0, 255], aqua: [0, 255, 255],
    pink: [255, 192, 203], brown: [165, 42, 42],
  };

  const HUES = [
    [15, "red"], [45, "orange"], [70, "yellow"], [165, "green"], [200, "aqua"], [255, "blue"],
    [290, "purple"], [345, "pink"], [361, "red"],
  ]; // hue in degrees, exclusive upper bound

  let ids = new WeakMap(); // element -> id
  let byId = new Map(); // id -> WeakRef of the element
  let hidden = ""; // selector of what is never shown

  const squash = (text) => (text || "").replace(/\s+/g, " ").trim().slice(0, MAX_NAME);
  const isField = (tag) => tag === "input" || tag === "select" || tag === "textarea";
  const isEditor = (element) =>
    element.isContentEditable && !element.parentElement?.isContentEditable;
  const round = (v) => Math.round(v * 10) / 10;
  const SVG = "http://www.w3.org/2000/svg";

  // ---- frames and shadow trees -------------------------------------------------------------------

  // The document inside a frame; null for an element that is none, or of another origin.
  const inside = (element, tag) => (tag === "iframe" || tag === "frame" ? element.contentDocument : null);

  // What is drawn as an element's content: of its shadow tree, or what a slot is filled with.
  function drawn(element, tag) {
    if (element.shadowRoot) return element.shadowRoot.childNodes;
    const filled = tag === "slot" ? element.assignedNodes() : [];
    return filled.length ? filled : element.childNodes;
  }

  const isActiveElement = (element) => {
    const root = element.getRootNode();
    return element === root.activeElement && element !== element.ownerDocument.body;
  };

  // What has the focus, in whatever frame or shadow tree it is.
  function activeElement() {
    let active = document.activeElement;
    for (;;) {
      const deeper = active?.shadowRoot?.activeElement || active?.contentDocument?.activeElement;
      if (!deeper) return active;
      active = deeper;
    }
  }

  // Where the content of a frame begins, in the document around it.
  function corner(frame) {
    const r = frame.getBoundingClientRect();
    const style = getComputedStyle(frame);
    return {
      x: r.left + frame.clientLeft + parseFloat(style.paddingLeft),
      y: r.top + frame.clientTop + parseFloat(style.paddingTop),
    };
  }

  // A point of an element's document in the page's viewport.
  function outside(element, x, y) {
    for (let f = element.ownerDocument.defaultView?.frameElement; f; f = f.ownerDocument.defaultView?.frameElement) {
      const at = corner(f);
      [x, y] = [x + at.x, y + at.y];
    }
    return { x, y };
  }

  // The innermost element at a point of the viewport, through shadow trees and frames.
  function topAt(x, y) {
    let top = document.elementFromPoint(x, y);
    while (top) {
      let deeper = top.shadowRoot?.elementFromPoint(x, y);
      const page = inside(top, top.localName);
      if (page) {
        const at = corner(top);
        [x, y] = [x - at.x, y - at.y];
        deeper = page.elementFromPoint(x, y);
      }
      if (!deeper || deeper === top) break;
      top = deeper;
    }
    return top;
  }

  // Whether one element is drawn inside another one.
  function holds(element, inner) {
    for (let e = inner; e; e = e.assignedSlot || e.parentElement || e.getRootNode().host) {
      if (e === element) return true;
    }
    return false;
  }

  function idOf(element) {
    let id = ids.get(element);
    if (id === undefined) {
      id = String(byId.size + 1);
      ids.set(element, id);
      byId.set(id, new WeakRef(element));
    }
    return id;
  }

  // ---- names -----------------------------------------------------------------------------------

  // The name that the author wrote, such as "aqua", or else the nearest common one.
  function colorName(written, computed) {
    if (/^[a-z]+$/i.test(written || "") && !/^(none|inherit|transparent|currentcolor)$/i.test(written)) {
      return written.toLowerCase();
    }
    const parts = /rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)/.exec(computed);
    if (!parts || Number(parts[4] ?? 1) < 0.1) return "";
    const rgb = parts.slice(1, 4).map(Number);
    for (const [name, exact] of Object.entries(COLORS)) {
      if (exact.every((v, i) => v === rgb[i])) return name;
    }
    const [r, g, b] = rgb.map((v) => v / 255);
    const high = Math.max(r, g, b), low = Math.min(r, g, b), range = high - low;
    const light = (high + low) / 2;
    if (range < 0.12) return light < 0.2 ? "black" : light > 0.9 ? "white" : "gray";
    const sixth =
      high === r ? (g - b) / range : high === g ? 2 + (b - r) / range : 4 + (r - g) / range;
    const hue = (sixth * 60 + 360) % 360;
    const name = HUES.find(([below]) => hue < below)[1];
    return light < 0.3 ? `dark ${name}` : light > 0.75 ? `light ${name}` : name;
  }

  function roleOf(element, tag) {
    const role = element.getAttribute("role");
    if (role && role !== "presentation" && role !== "none") return role.split(" ")[0];
    if (tag === "input") return INPUT_ROLES[element.type] || "textbox";
    if (tag === "select") return element.multiple || element.size > 1 ? "listbox" : "combobox";
    if (TAG_ROLES[tag]) return TAG_ROLES[tag];
    if (element.classList.contains("ui-slider-handle")) return "slider";
    return isEditor(element) ? "textbox" : "";
  }

  // Labels that name a field, and so need no line of their own.
  function labelsOf(element) {
    if (element.labels?.length) return [...element.labels];
    const before = element.previousElementSibling;
    return before?.localName === "label" && !before.htmlFor ? [before] : [];
  }

  function byReference(element) {
    const named = (element.getAttribute("aria-labelledby") || "").split(/\s+/);
    return named.map((id) => (id ? element.getRootNode().getElementById?.(id)?.textContent : "")).join(" ");
  }

  function fieldName(element) {
    if (element.localName === "input" && ["button", "submit", "reset"].includes(element.type)) {
      return squash(element.value || element.getAttribute("aria-label") || element.type);
    }
    return (
      squash(element.getAttribute("aria-label")) || squash(byReference(element)) ||
      squash(labelsOf(element).map((label) => label.textContent).join(" ")) ||
      squash(element.placeholder || element.title || element.getAttribute("alt")) || ""
    );
  }

  function shapeName(element, tag, style, rect) {
    const fill = colorName(element.getAttribute("fill"), style.fill);
    const stroke = colorName(element.getAttribute("stroke"), style.stroke);
    const color = tag === "line" || tag === "polyline" ? stroke || fill : fill || stroke;
    const text = tag === "text" ? squash(element.textContent) : "";
    const [w, h] = [Math.round(rect.width), Math.round(rect.height)];
    const size = tag === "text" ? style.fontSize : Math.abs(w - h) < 2 ? `${w}px` : `${w}x${h}px`;
    return [text, color, size].filter(Boolean).join(" ");
  }

  function shapeRole(element, tag) {
    if (tag === "polygon") {
      const corners = element.points.numberOfItems;
      return { 3: "triangle", 4: "quadrilateral" }[corners] || `polygon-${corners}`;
    }
    if (tag === "text") {
      const text = squash(element.textContent);
      return /^\d$/.test(text) ? "digit" : text.length === 1 ? "letter" : "label";
    }
    return { rect: "rectangle", use: "shape" }[tag] || tag;
  }

  // For an element without any text: its picture's text, its colour, or the author's word for it.
  function bareName(element, style) {
    const image = element.localName === "img" ? element : element.querySelector("img");
    const told = squash(
      element.getAttribute("aria-label") || byReference(element) || element.title || image?.alt
    );
    if (told) return told;
    const color = colorName(element.style.backgroundColor, style.backgroundColor);
    const chosen = color === element.style.backgroundColor; // a word, so the author meant it
    if (color && (chosen || (color !== "white" && color !== "gray"))) return color;
    const file = image ? (image.getAttribute("src") || "").split("/").pop().split(".")[0] : "";
    const classes = [...element.classList].filter((c) => !STYLING_CLASS.test(c));
    const word = file || classes.find((c) => !c.startsWith("ui-")) || classes.pop() || element.id || (element.classList.length ? "" : color);
    return squash(word.replace(/^ui-/, "").replace(/[-_]+/g, " "));
  }

  // ---- one element ------------------------------------------------------------------------------

  function isActive(element, tag, role, style, parentStyle, listening, dragged) {
    if (isField(tag) || tag === "button" || tag === "a" || tag === "summary" || tag === "canvas") return true;
    if (ACTIVE_ROLES.has(role)) return true;
    if (role && role !== "image" && role !== "drawing") return false;
    if (element.hasAttribute("onclick")) return true;
    if (element.hasAttribute("tabindex") && element.tabIndex >= 0) return true;
    if (style.cursor === "pointer" && parentStyle?.cursor !== "pointer" && tag !== "label") return true;
    if (dragged.has(element)) return true;
    // A list listens for its items, a box for what is in it.
    if (tag === "li" && listening.has(element.parentElement)) return true;
    return listening.has(element) && !LISTS.has(tag);
  }

  function statesOf(element, tag) {
    const states = [];
    const aria = (name) => element.getAttribute(`aria-${name}`);
    if (isActiveElement(element)) states.push("focused");
    if (element.checked === true || aria("checked") === "true") states.push("checked");
    if (element.disabled === true || aria("disabled") === "true") states.push("disabled");
    if (element.readOnly === true && isField(tag)) states.push("readonly");
    if (tag === "textarea") states.push("multiline");
    const classes = element.classList;
    if (aria("selected") === "true" || (classes.length && [...classes].some((c) => SELECTED_CLASSES.has(c)))) {
      states.push("selected");
    }
    if (aria("expanded")) states.push(aria("expanded") === "true" ? "expanded" : "collapsed");
    return states;
  }

  function valueOf(element, tag) {
    if (tag === "select") return squash([...element.selectedOptions].map((o) => o.label).join(", "));
    if (tag === "textarea") return element.value.slice(0, MAX_VALUE);
    if (isEditor(element)) return squash(element.innerText);
    if (tag !== "input") return "";
    if (NO_VALUE.has(element.type)) return "";
    if (element.type === "password") return "*".repeat(Math.min(element.value.length, 40));
    return element.value.slice(0, MAX_VALUE);
  }

  function attributesOf(element) {
    const kept = [];
    for (const { name, value } of element.attributes) {
      if (value && KEPT_ATTRIBUTES.has(name)) kept.push([name, value.slice(0, MAX_NAME)]);
    }
    return kept;
  }

  // ---- geometry -----------------------------------------------------------------------------------

  const EVERYWHERE = { left: -1e9, top: -1e9, right: 1e9, bottom: 1e9 };
  const meet = (a, b) => ({
    left: Math.max(a.left, b.left), top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right), bottom: Math.min(a.bottom, b.bottom),
  });
  // Whether some of a rectangle is inside another one. Lines have no width or height of their own, yet
  // can be seen: `least` is what a side has at least. (Without objects: it is asked for every element.)
  function overlaps(a, b, least) {
    const { left, top } = a;
    return (
      left < b.right && b.left < Math.max(a.right, left + least) &&
      top < b.bottom && b.top < Math.max(a.bottom, top + least)
    );
  }

  let scrolled = { x: 0, y: 0 }; // how far the page is, as of the look

  // Whether any of it can be seen, possibly after scrolling.
  function canShow(rect, space) {
    if (rect.width === 0 && rect.height === 0) return false;
    if (!overlaps(rect, space.cut, 1)) return false;
    // Left of or above the page's start nobody can scroll: where pages hide things.
    return space.inner || (
      Math.max(rect.right, rect.left + 1) + scrolled.x > 0 &&
      Math.max(rect.bottom, rect.top + 1) + scrolled.y > 0
    );
  }

  // What an element cuts off its content: for good (`cut`) or until scrolled (`port`).
  function clipped(space, element, style, position) {
    const page = element.ownerDocument;
    if (element === page.body || element === page.documentElement) return space;
    const positioned = position !== "static";
    const open = style.overflowX === "visible" && style.overflowY === "visible";
    if (open && (!positioned || (space.absCut === space.cut && space.absPort === space.port))) return space;
    const over = style.overflow;
    let { cut, port, inner } = space;
    if (!open) {
      const rect = element.getBoundingClientRect();
      if (/auto|scroll/.test(over)) [port, inner] = [meet(port, rect), true];
      else cut = meet(cut, rect);
    }
    return {
      cut, port, inner, frame: space.frame,
      absCut: positioned ? cut : space.absCut,
      absPort: positioned ? port : space.absPort,
    };
  }

  // ---- the look -----------------------------------------------------------------------------------

  function listeningElements(page = document) {
    const found = new Set();
    const collect = (event) => {
      event.stopImmediatePropagation();
      found.add(event.composedPath()[0]);
    };
    const view = page.defaultView;
    view.addEventListener("agentgym:listens", collect, true);
    page.dispatchEvent(new Event("agentgym:ask"));
    view.removeEventListener("agentgym:listens", collect, true);
    return found;
  }

  // Which of these events the page's own world answers another one with, see `pending.js`, `listeners.js`.
  function answers(question, names) {
    const found = new Set();
    const collect = (event) => {
      event.stopImmediatePropagation();
      found.add(event.type);
    };
    for (const name of names) window.addEventListener(name, collect, true);
    document.dispatchEvent(new Event(question));
    for (const name of names) window.removeEventListener(name, collect, true);
    return found;
  }

  class Look {
    constructor(attributes) {
      this.attributes = attributes;
      this.out = [];
      this.text = null; // the line of plain text being gathered
      this.listening = listeningElements();
      this.labels = new Set();
      this.dragged = new Set();
      this.range = document.createRange();
      this.level = 0; // elements around the one that is read
      this.left = this.top = 0; // where the document that is read begins, in the viewport
      this.enter(document);
    }

    // Note the labels of a document or shadow tree, which need no line of their own.
    enter(root) {
      for (const element of root.querySelectorAll(DRAGGED)) this.dragged.add(element);
      for (const field of root.querySelectorAll("input, select, textarea")) {
        if (field.checkVisibility({ visibilityProperty: true })) {
          for (const label of labelsOf(field)) this.labels.add(label);
        }
      }
    }

    flush() {
      const text = this.text;
      this.text = null;
      if (!text) return;
      const name = squash(text.parts.join("")).replace(/^[|\s]+|[|\s]+$/g, "");
      if (name) {
        const b = text.box;
        const box = [
          round(b.left + this.left), round(b.top + this.top), round(b.right - b.left), round(b.bottom - b.top),
        ];
        this.out.push(["", "text", name, "", "#text", text.depth, text.states, [], box, []]);
      }
    }

    add(element, tag, role, name, depth, rect, space) {
      const states = statesOf(element, tag);
      if (!overlaps(rect, space.port, 1)) states.push("offscreen");
      const options = tag === "select" ? [...element.options].map((o) => squash(o.label)) : [];
      const box = [
        round(rect.x + this.left), round(rect.y + this.top), round(rect.width), round(rect.height),
      ];
      const line = [
        element, role || "clickable", name, valueOf(element, tag), tag, depth, states, options,
        box, this.attributes ? attributesOf(element) : [],
      ];
      this.out.push(line);
      return line;
    }

    addText(node, owner, depth, space) {
      this.range.selectNodeContents(node);
      const rect = this.range.getBoundingClientRect();
      if (rect.width === 0 || rect.height === 0 || !canShow(rect, space)) return;
      const data = node.data.slice(0, MAX_TEXT);
      if (owner) {
        owner.parts.push(data);
        return;
      }
      const states = overlaps(rect, space.port, 0) ? [] : ["offscreen"];
      const box = { left: rect.left, top: rect.top, right: rect.right, bottom: rect.bottom };
      if (!this.text) this.text = { parts: [], box, depth, states };
      this.text.parts.push(data);
      const b = this.text.box;
      this.text.box = {
        left: Math.min(b.left, box.left), top: Math.min(b.top, box.top),
        right: Math.max(b.right, box.right), bottom: Math.max(b.bottom, box.bottom),
      };
    }

    // `owner` gathers the text inside an element that can be acted on: it is its name.
    // Computed styles are what a look takes longest for: each is asked for once, and only if it matters.
    walk(element, depth, parentStyle, space, owner) {
      const tag = element.localName;
      if (SKIPPED.has(tag) || this.out.length >= MAX_ELEMENTS) return;
      if (hidden && element.matches(hidden)) return;
      const style = getComputedStyle(element);
      const { display } = style;
      if (display === "none") return;
      if (style.opacity === "0" && !isField(tag)) return;
      const { position } = style;
      if (position === "absolute") space = { ...space, cut: space.absCut, port: space.absPort };
      if (position === "fixed") space = viewSpace(space.frame);
      const inline = display.startsWith("inline") || display === "contents";
      const cell = display === "table-cell";
      if (!inline && !cell && !owner) this.flush();
      if (cell && this.text) this.text.parts.push(" | ");
      if (tag === "br") (owner ? owner.parts : this.text?.parts)?.push(" ");

      let inner = owner;
      let line = null;
      const shape = SHAPES.has(tag) && element.namespaceURI === SVG;
      if (shape && owner) return; // part of an icon
      const role = roleOf(element, tag);
      const visible = style.visibility === "visible";
      if (
        visible &&
        (shape ? style.pointerEvents !== "none"
          : isActive(element, tag, role, style, parentStyle, this.listening, this.dragged))
      ) {
        const rect = element.getBoundingClientRect();
        const seen = canShow(rect, space);
        if (shape) {
          if (!seen || (rect.width < 2 && rect.height < 2)) return;
          this.flush();
          this.add(element, tag, shapeRole(element, tag), shapeName(element, tag, style, rect), depth, rect, space);
          return;
        }
        if (seen && isField(tag)) {
          this.flush();
          this.add(element, tag, role, fieldName(element), depth, rect, space);
          return;
        }
        if (seen && element !== element.ownerDocument.body) {
          this.flush();
          line = this.add(element, tag, role, "", depth, rect, space);
          // Its own text can be seen where it can, unless the author took care that it cannot.
          const plain = style.textIndent === "0px" && style.fontSize !== "0px";
          if (role !== "drawing") inner = { parts: [], of: plain ? element : null };
        }
      } else if (this.labels.has(element)) {
        inner = { parts: [] }; // dropped: the field has it as its name
      }
      if (tag === "iframe" || tag === "frame") {
        this.frame(element, tag, depth, style, space);
        return;
      }
      const mark = this.out.length;
      if (element.shadowRoot) this.enter(element.shadowRoot);
      // Text that is a name all by itself is taken wherever it is.
      const bare = !element.firstElementChild && !element.shadowRoot && tag !== "slot";
      if (!bare || inner?.of !== element) space = clipped(space, element, style, position);
      this.children(element, tag, line ? depth + 1 : depth, style, visible, space, inner);
      if (line) this.name(line, element, style, inner, mark);
      if (!inline && !cell && !owner) this.flush();
    }

    // Give a line its name, or take it back if it is only a frame around what can be acted on.
    name(line, element, style, inner, mark) {
      const text = isEditor(element) || !inner ? "" : squash(inner.parts.join(""));
      const nested = this.out.length - mark;
      const told = squash(element.getAttribute("aria-label")) || text;
      if (nested && !told) {
        const only = nested === 1 ? this.out[mark] : null;
        if (only && ACTIVE_ROLES.has(line[1]) && only[0].getAttribute("tabindex") === "-1") {
          line[2] = this.out.pop()[2]; // a tab's link: one thing with two elements
        } else if (!ACTIVE_ROLES.has(line[1])) {
          this.out.splice(mark - 1, 1);
        }
        return;
      }
      line[2] = told || bareName(element, style);
    }

    // What a frame shows; one of another origin can only be told to be there.
    frame(element, tag, depth, style, space) {
      const rect = element.getBoundingClientRect();
      if (style.visibility !== "visible" || !canShow(rect, space)) return;
      this.flush();
      const page = inside(element, tag);
      if (!page) {
        const name = squash(element.title || element.name || element.src);
        const line = this.add(element, tag, "frame", name, depth, rect, space);
        line[0] = null;
        return;
      }
      if (!page.body) return;
      const at = corner(element);
      const own = { left: 0, top: 0, right: element.clientWidth, bottom: element.clientHeight };
      const port = { left: space.port.left - at.x, top: space.port.top - at.y,
        right: space.port.right - at.x, bottom: space.port.bottom - at.y };
      const seen = meet(own, port);
      const before = [this.left, this.top, this.listening];
      [this.left, this.top] = [this.left + at.x, this.top + at.y];
      this.listening = listeningElements(page);
      this.enter(page);
      const inner = { cut: EVERYWHERE, port: seen, inner: true, absCut: EVERYWHERE, absPort: seen, frame: seen };
      this.walk(page.body, depth, null, inner, null);
      this.flush();
      [this.left, this.top, this.listening] = before;
    }

    children(element, tag, depth, style, visible, space, owner) {
      if (this.level >= MAX_LEVELS) return;
      this.level++;
      if (element.shadowRoot || tag === "slot") {
        for (const child of drawn(element, tag)) this.child(child, depth, style, visible, space, owner);
      } else {
        for (let child = element.firstChild; child; child = child.nextSibling) {
          this.child(child, depth, style, visible, space, owner);
        }
      }
      this.level--;
    }

    child(child, depth, style, visible, space, owner) {
      const kind = child.nodeType;
      if (kind === 1) this.walk(child, depth, style, space, owner);
      else if (kind === 3) {
        const { data } = child;
        if (!data.trim()) (owner ? owner.parts : this.text?.parts)?.push(" ");
        else if (owner && owner.of === child.parentNode) owner.parts.push(data);
        else if (visible) this.addText(child, owner, depth, space);
      }
    }
  }

  // What can be seen through a document's window; `frame` is what can be seen of a frame's.
  function viewSpace(frame) {
    const port = frame || { left: 0, top: 0, right: innerWidth, bottom: innerHeight };
    return { cut: EVERYWHERE, port, inner: Boolean(frame), absCut: EVERYWHERE, absPort: port, frame };
  }

  function look(attributes) {
    scrolled = { x: scrollX, y: scrollY };
    const view = new Look(attributes);
    if (document.body) view.walk(document.body, 0, null, viewSpace(), null);
    view.flush();
    for (const line of view.out) line[0] = line[0] ? idOf(line[0]) : "";
    const active = activeElement();
    return {
      elements: view.out,
      url: location.href,
      title: document.title,
      focused: (active && ids.get(active)) || "",
    };
  }

  // ---- acting -------------------------------------------------------------------------------------

  function find(id) {
    const element = byId.get(id)?.deref();
    return element?.isConnected && element.ownerDocument.defaultView ? element : null;
  }

  function reaches(element, top) {
    if (!top) return false;
    return holds(element, top) || top.closest("label")?.control === element;
  }

  // A point where a click arrives at the element: the middle if possible, else any that does.
  function pointOn(element) {
    const rects = [...element.getClientRects()].filter((r) => r.width > 0 || r.height > 0);
    for (const r of rects.slice(0, 4)) {
      for (const [fx, fy] of [
        [0.5, 0.5], [0.5, 0.25], [0.5, 0.75], [0.25, 0.5], [0.75, 0.5], [0.25, 0.25], [0.75, 0.75],
        [0.25, 0.75], [0.75, 0.25], [0.1, 0.5], [0.9, 0.5], [0.5, 0.1], [0.5, 0.9],
      ]) {
        const { x, y } = outside(element, r.x + r.width * fx, r.y + r.height * fy);
        if (reaches(element, topAt(x, y))) return { x, y };
      }
    }
    return null;
  }

  function locate(id) {
    const element = find(id);
    if (!element) return { problem: "gone" };
    if (element.disabled) return { problem: "disabled" };
    let point = pointOn(element);
    if (!point) {
      element.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
      point = pointOn(element);
    }
    if (point) return { ...point, problem: "" };
    const r = element.getBoundingClientRect();
    if (!element.checkVisibility({ visibilityProperty: true }) || (r.width === 0 && r.height === 0)) {
      return { problem: "hidden" };
    }
    const { x, y } = outside(element, r.x + r.width / 2, r.y + r.height / 2);
    let top = topAt(x, y);
    // Without pointer events of its own, a click goes to what is around it: as for a person.
    if (top && holds(top, element)) return { x, y, problem: "" };
    while (top && !ids.has(top)) top = top.parentElement;
    return { problem: "covered", by: top ? ids.get(top) : "" };
  }

  const SET_ONLY = new Set(["date", "time", "month", "week", "datetime-local", "color", "range"]);
  const NOT_TYPED = new Set(["button", "submit", "reset", "image", "checkbox", "radio", "file", "hidden"]);

  const WRITTEN = new Set(["text", "password", "search", "tel", "url"]);

  function changed(element) {
    element.dispatchEvent(new Event("input", { bubbles: true }));
    element.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // Whether a text may come at once instead of by keys: nothing listens to those, and they would do
  // nothing else.
  function unheard(element, text) {
    if (!isActiveElement(element)) return false; // the page put the focus elsewhere
    if (element.localName !== "textarea" && !WRITTEN.has(element.type)) return false;
    if (/[\p{C}]/u.test(text) || element.maxLength >= 0 || element.getRootNode() !== document) return false;
    if (!answers("agentgym:keys", ["agentgym:unheard"]).size) return false;
    for (let e = element; e; e = e.parentElement) {
      for (const { name } of e.attributes) if (/^on(key|input|beforeinput|select|text|comp)/.test(name)) return false;
    }
    return true;
  }

  // Focus a field and select what it holds. "" if keys can follow, "text" if it may come at once, which
  // is to be told if `quick`, "done" if the value is set.
  function startTyping(id, text, quick) {
    const element = find(id);
    if (!element) return "gone";
    if (element.disabled) return "disabled";
    if (element.readOnly) return "readonly";
    const tag = element.localName;
    const field = tag === "textarea" || (tag === "input" && !NOT_TYPED.has(element.type));
    if (!field && !element.isContentEditable) return "no field";
    if (!element.checkVisibility({ visibilityProperty: true })) return "hidden";
    element.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
    element.focus();
    if (tag === "input" && SET_ONLY.has(element.type)) {
      const before = element.value;
      element.value = text;
      if (element.value !== text) {
        element.value = before;
        return "invalid";
      }
      changed(element);
      return "done";
    }
    if (field) element.select();
    else element.ownerDocument.getSelection().selectAllChildren(element);
    return quick && text && field && unheard(element, text) ? "text" : "";
  }

  function choose(id, label) {
    const element = find(id);
    if (!element) return "gone";
    if (element.localName !== "select") return "no list";
    if (element.disabled) return "disabled";
    if (!element.checkVisibility({ visibilityProperty: true })) return "hidden";
    const options = [...element.options];
    const low = (text) => squash(text).toLowerCase();
    const option =
      options.find((o) => squash(o.label) === squash(label)) ||
      options.find((o) => low(o.label) === low(label)) ||
      options.find((o) => o.value === label);
    if (!option) return "no option";
    if (option.disabled) return "disabled";
    element.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
    element.focus();
    option.selected = element.multiple ? !option.selected : true;
    changed(element);
    return "";
  }

  let moved = false; // something was scrolled, which is told with the next frame

  function scroll(id, dx, dy) {
    const start = id ? find(id) : null;
    if (id && !start) return "gone";
    moved = true;
    const moves = (e) => {
      const before = [e.scrollLeft, e.scrollTop];
      const part = (size) => Math.max(20, size * 0.8);
      e.scrollBy({ left: dx * part(e.clientWidth), top: dy * part(e.clientHeight), behavior: "instant" });
      return e.scrollLeft !== before[0] || e.scrollTop !== before[1];
    };
    for (let e = start || document.scrollingElement; e; e = e.parentElement) if (moves(e)) return "";
    if (start) return "end";
    for (const e of document.querySelectorAll("body *")) {
      const inside = /auto|scroll/.test(getComputedStyle(e).overflow) || e.localName === "textarea";
      if ((inside || e.localName === "select") && moves(e)) return "";
    }
    return "end";
  }

  function selection() {
    const a = activeElement();
    if (a && typeof a.selectionStart === "number") return a.value.slice(a.selectionStart, a.selectionEnd);
    return String((a?.ownerDocument || document).getSelection());
  }

  // Like `locate`; and whether the mouse, which is at x, y, is yet to be told what is under it.
  const reach = (id, mouse) => ({ ...locate(id), stale: globalThis[Symbol.for("agentgym.stale")](mouse) });

  // While the mouse drags, Chromium scrolls in real time: what it scrolled is put back afterwards.
  // Nothing may be selected when it begins, or the selected text would be dragged.
  let held = [];
  function holdScroll() {
    const a = document.activeElement;
    if (a && typeof a.selectionStart === "number") a.setSelectionRange(a.selectionEnd, a.selectionEnd);
    getSelection().removeAllRanges();
    held = [document.scrollingElement, ...document.querySelectorAll("body *")]
      .filter((e) => e && (e.scrollHeight > e.clientHeight || e.scrollWidth > e.clientWidth))
      .map((e) => [e, e.scrollLeft, e.scrollTop]);
  }
  function restoreScroll() {
    for (const [e, left, top] of held) {
      if (e.scrollLeft !== left || e.scrollTop !== top) e.scrollTo({ left, top, behavior: "instant" });
    }
    held = [];
  }

  // One real frame, with layout before it, so that it can tell what is under the mouse.
  const frame = () =>
    new Promise((done) => {
      document.body?.getBoundingClientRect();
      setTimeout(done, 250); // should no frame come
      requestAnimationFrame(() => setTimeout(done, 0));
    });

  // ---- until it is quiet ----------------------------------------------------------------------------

  const asleep = (ms) => new Promise((done) => setTimeout(done, ms));
  // Once all that is due before has run.
  const idle = () => scheduler.postTask(() => 0, { priority: "background" });

  // What the page waits for, as `pending.js` tells: names of events.
  const pending = () => answers("agentgym:pending", ["agentgym:timers", "agentgym:frames"]);

  // Wait until the page no longer changes by itself, at most `limit` ms: twice in a row nothing may
  // have changed, with a frame in between if somebody can tell. "quiet", "changing" or "timers".
  async function rest(limit, mouse) {
    const end = performance.now() + limit;
    let changed = false;
    const observer = new MutationObserver(() => { changed = true; });
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    let reason = "quiet";
    for (let still = 0; still < 2; ) {
      changed = false;
      const waits = pending();
      const timers = waits.has("agentgym:timers");
      if (waits.has("agentgym:frames") || moved || globalThis[Symbol.for("agentgym.stale")](mouse)) {
        moved = false;
        await frame();
      } else if (timers) await asleep(4);
      else await idle();
      still = changed || timers ? 0 : still + 1;
      if (still < 2 && performance.now() >= end) {
        reason = timers && !changed ? "timers" : "changing";
        break;
      }
    }
    observer.disconnect();
    return reason;
  }

  globalThis.agentgym = {
    frame, idle, rest, locate, reach,
    // As text: Chromium takes much longer to make JSON of an object.
    look: (attributes = true) => JSON.stringify(look(attributes)),
    startTyping, choose, scroll, selection, holdScroll, restoreScroll, find,
    listeningElements,
    // Call an element by an id of somebody else's, instead of one of ours.
    adopt(id, element) {
      ids.set(element, id);
      byId.set(id, new WeakRef(element));
    },
    // A new episode: ids start at 1 again.
    reset(hide) {
      ids = new WeakMap();
      byId = new Map();
      hidden = hide;
    },
  };
})();
