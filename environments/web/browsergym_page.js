// What BrowserGym does to a MiniWoB++ page before an episode: what is meant for people (goal, time,
// score, the cover) is taken out of the document, and put back while the page's own code needs it.
(() => {
  "use strict";
  const PEOPLES = ["reward-display", "click-canvas", "sync-task-cover"];
  let away = [];
  let goal = null;
  let depth = 0;

  function hide() {
    core.clearTimer(); // the countdown, which would look for its display
    document.body.removeEventListener("click", core.canvasDrawClick); // so would this
    away = PEOPLES.map((id) => document.getElementById(id)).filter(Boolean);
    for (const element of away) element.remove();
    const query = document.getElementById("query");
    goal = document.createDocumentFragment();
    goal.append(...(query?.childNodes ?? []));
  }
  function show() {
    document.body.append(...away);
    if (goal) document.getElementById("query")?.replaceChildren(goal);
    away = [];
    goal = null;
  }
  for (const name of ["startEpisodeReal", "endEpisode", "getUtterance"]) {
    const original = core[name];
    core[name] = function (...args) {
      if (depth++ === 0) show();
      try {
        return original.apply(this, args);
      } finally {
        if (--depth === 0) hide();
      }
    };
  }
  hide();
})();
