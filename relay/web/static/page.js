// What the page does beside htmx: ages tick, old pages turn grey, times say the viewer's own zone,
// and nothing is swapped under the fingers of somebody who reads, types or has it in focus.
"use strict";
(function () {
  function age() {
    var shown = document.querySelector("[data-as-of]");
    if (!shown) return;
    var seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(shown.dataset.asOf)));
    var text = shown.querySelector(".age");
    if (text) text.textContent = ", " + text.textContent.replace(/^, /, "").replace(/\d+ ?(ms|s|min|h|days)/, span(seconds));
    var old = seconds > 6 * Number(shown.dataset.every) + 20;
    document.body.classList.toggle("old", old);
  }
  function span(seconds) {
    if (seconds < 120) return seconds + " s";
    return seconds < 7200 ? Math.floor(seconds / 60) + " min" : Math.floor(seconds / 3600) + " h";
  }
  function zones(root) {
    root.querySelectorAll("time[datetime]").forEach(function (one) {
      var at = new Date(one.getAttribute("datetime"));
      if (!isNaN(at)) one.title = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    });
  }
  function busy(target) {
    var active = document.activeElement;
    var chosen = String(window.getSelection() || "");
    return (active && active !== document.body && active !== target && target.contains(active)) || chosen.length > 0;
  }
  document.addEventListener("htmx:sseBeforeMessage", function (event) {
    if (event.target.id === "night" && busy(event.target)) event.preventDefault();
  });
  document.addEventListener("htmx:beforeRequest", function (event) {
    if (event.target.id === "main" && busy(event.target)) event.preventDefault();
  });
  // What was asked for before he began comes while he types: it is not shown either.
  document.addEventListener("htmx:beforeSwap", function (event) {
    if (event.target.id === "main" && busy(event.target)) event.preventDefault();
  });
  document.addEventListener("htmx:load", function (event) { zones(event.target); });
  document.addEventListener("htmx:sseMessage", function () { zones(document); age(); });
  document.addEventListener("submit", function (event) {
    var button = event.target.querySelector("button.act");
    if (button) setTimeout(function () { button.disabled = true; }, 0);
  });
  document.addEventListener("keydown", function (event) {
    var field = /^(input|textarea|select)$/i.test((event.target.tagName || ""));
    if (event.key === "/" && !field && !event.ctrlKey && !event.metaKey) {
      var search = document.getElementById("q");
      if (search) { event.preventDefault(); search.focus(); }
    }
  });
  window.addEventListener("pageshow", function (event) {
    if (event.persisted) location.reload();
  });
  zones(document);
  age();
  setInterval(age, 1000);
})();
