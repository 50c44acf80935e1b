// The page as rows for `markup.py`: elements and texts in the document's order, read in one pass.
// Runs in the isolated world, after `observe.js`; nothing is written to the page.
(() => {
  "use strict";
  const SKIPPED = new Set(["script", "style", "noscript", "template", "head", "link", "meta"]);
  const LABELLED = new Set(["a", "button", "input", "select", "textarea", "summary", "option"]);
  const ROLES = new Set([
    "button", "link", "checkbox", "radio", "textbox", "searchbox", "combobox", "slider", "spinbutton",
    "switch", "tab", "treeitem", "option", "menuitem", "menuitemcheckbox", "menuitemradio",
  ]);
  const ATTRIBUTES = [
    "title", "value", "type", "placeholder", "selected", "data-value", "data-text", "data-testid",
    "data-label", "data-status",
  ];
  const MAX_VALUE = 500;
  const MAX_ROWS = 20000;
  const MAX_LEVELS = 800;

  function attributesOf(element, tag) {
    const kept = [];
    for (const name of ATTRIBUTES) {
      let value = element.getAttribute(name);
      if (name === "value" && ["input", "textarea", "select"].includes(tag)) {
        value = element.type === "password" ? "*".repeat(element.value.length) : element.value;
      }
      if (name === "selected" && tag === "option") value = element.selected ? "true" : null;
      if (value && !kept.some(([, text]) => text === value)) kept.push([name, value.slice(0, MAX_VALUE)]);
    }
    return kept;
  }

  function labelled(element, tag, style, parentStyle, listening) {
    if (tag === "input" && element.type === "hidden") return false;
    return (
      LABELLED.has(tag) || ROLES.has(element.getAttribute("role")) || element.hasAttribute("onclick") ||
      listening.has(element) || (style.cursor === "pointer" && parentStyle?.cursor !== "pointer")
    );
  }

  // Rows [parent, tag, id, attributes, box, seen, text]; ids count from 0, and `find` knows them.
  agentgym.markup = () => {
    const rows = [];
    const listening = agentgym.listeningElements();
    let labels = 0;
    const walk = (element, parent, parentStyle, level) => {
      const tag = element.localName;
      if (SKIPPED.has(tag) || rows.length >= MAX_ROWS || level > MAX_LEVELS) return;
      const style = getComputedStyle(element);
      if (style.display === "none") return;
      const r = element.getBoundingClientRect();
      const seen = style.visibility === "visible" && r.width > 0 && r.height > 0 &&
        r.right > 0 && r.bottom > 0 && r.left < innerWidth && r.top < innerHeight;
      let id = -1;
      if (seen && element !== document.body && labelled(element, tag, style, parentStyle, listening)) {
        id = labels++;
        agentgym.adopt(String(id), element);
      }
      const box = [r.x, r.y, r.width, r.height].map(Math.round);
      const index = rows.push([parent, tag, id, attributesOf(element, tag), box, seen, ""]) - 1;
      if (tag === "textarea") return;
      for (const child of element.childNodes) {
        if (child.nodeType === Node.ELEMENT_NODE) walk(child, index, style, level + 1);
        else if (child.nodeType === Node.TEXT_NODE && child.data.trim()) {
          rows.push([index, "#text", -1, [], box, seen, child.data]);
        }
      }
    };
    walk(document.documentElement, -1, null, 0);
    return rows;
  };
})();
