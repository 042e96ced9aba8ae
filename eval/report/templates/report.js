"use strict";
/* The page around the explorer: light and dark, which benchmark and n are looked at, the table that sorts and filters,
   the measure of the scaling charts, the marks of the frontier. */
(() => {
  const byId = (id) => document.getElementById(id);
  const ALL = "all"; // every benchmark together

  function themeButton() {
    const button = byId("theme");
    const themes = ["automatic", "light", "dark"];
    let chosen = 0;
    button.hidden = false;
    button.addEventListener("click", () => {
      chosen = (chosen + 1) % themes.length;
      button.textContent = `Theme: ${themes[chosen]}`;
      if (chosen) document.documentElement.dataset.theme = themes[chosen];
      else delete document.documentElement.dataset.theme;
    });
  }

  /* Numbers by size, words by the alphabet; a cell without a value comes last in both directions. */
  function compare(a, b, sign) {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const [x, y] = [Number(a), Number(b)];
    return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  }

  function sortBy(table, column, sign) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    rows.sort((a, b) => compare(a.cells[column].dataset.value, b.cells[column].dataset.value, sign));
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.title = head.title;
      button.addEventListener("click", () => {
        const words = head.classList.contains("text");
        const now = head.getAttribute("aria-sort");
        const sign = now ? (now === "ascending" ? -1 : 1) : words ? 1 : -1;
        sortBy(table, index, sign);
      });
      head.replaceChildren(button);
    });
  }

  /* Whether an element is of the chosen benchmark and n; `part`: of a benchmark that is part of all together. */
  function isChosen({ benchmark, n, part }) {
    const [wanted, many] = [byId("benchmark")?.value, byId("n")?.value];
    if (part !== undefined && wanted !== part && wanted !== ALL) return false;
    return (benchmark === undefined || benchmark === wanted) && (n === undefined || n === many);
  }

  function showChosen() {
    const measure = document.querySelector("#measure input:checked")?.value;
    for (const element of document.querySelectorAll("[data-benchmark], [data-n], [data-part]")) {
      if (!element.dataset.words) element.hidden = !isChosen(element.dataset);
    }
    for (const element of document.querySelectorAll("[data-measure]")) {
      element.hidden = !isChosen(element.dataset) || element.dataset.measure !== measure;
    }
    if (byId("advice")) byId("advice").parentElement.hidden = !document.querySelector(".advice ul:not([hidden])");
  }

  function viewChooser() {
    if (byId("choice")) byId("choice").hidden = false;
    if (byId("measure")) byId("measure").hidden = false;
    byId("measure")?.addEventListener("change", showChosen);
    byId("choice")?.addEventListener("change", () => {
      showChosen();
      document.dispatchEvent(new Event("view"));
    });
    showChosen();
  }

  function makeFilterable(table) {
    const rows = [...table.tBodies[0].rows];
    const input = byId("table-filter");
    const apply = () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const offered = rows.filter((row) => byId("every-row")?.checked || isChosen(row.dataset));
      const shown = new Set(offered.filter((row) => wanted.every((word) => row.dataset.words.includes(word))));
      table.classList.toggle("one-view", !byId("every-row")?.checked);
      for (const row of rows) row.hidden = !shown.has(row);
      byId("table-count").textContent = `${shown.size} of ${offered.length} rows`;
    };
    byId("table-controls").hidden = false;
    const fewColumns = () => table.classList.toggle("few-columns", !byId("every-column")?.checked);
    byId("every-column")?.addEventListener("change", fewColumns);
    fewColumns();
    input.addEventListener("input", apply);
    byId("every-row")?.addEventListener("change", apply);
    document.addEventListener("view", apply);
    apply();
  }

  /* Where a page has no access to the clipboard, the command is selected for the reader's own keys. */
  function copyButton(button) {
    const code = button.parentElement.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(code);
      const copied = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
      button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    });
  }

  /* One stop of the Tab key for all marks; the arrow keys go from mark to mark, from the cheapest to the dearest. */
  function frontierMarks(figure) {
    const readout = figure.querySelector(".readout");
    const column = (mark) => mark.transform.baseVal.consolidate().matrix.e;
    const marks = [...figure.querySelectorAll(".point")].sort((a, b) => column(a) - column(b));
    const tell = (mark) => { readout.textContent = mark.getAttribute("aria-label"); };
    readout.hidden = false;
    marks.forEach((mark, index) => {
      mark.setAttribute("tabindex", index ? "-1" : "0");
      mark.addEventListener("pointerenter", () => tell(mark));
      mark.addEventListener("focus", () => tell(mark));
      mark.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        mark.setAttribute("tabindex", "-1");
        const next = marks[(index + step + marks.length) % marks.length];
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  }

  /* A page about runs that go on is written anew meanwhile; it stays as it is while its reader has paused it. */
  function reloadSwitch(button) {
    let paused = false;
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? "Go on reloading" : "Pause reloading";
    });
    setInterval(() => paused || location.reload(), 1000 * Number(button.dataset.seconds));
  }

  themeButton();
  viewChooser();
  if (byId("results")) {
    makeSortable(byId("results"));
    makeFilterable(byId("results"));
  }
  document.querySelectorAll("button.reload").forEach(reloadSwitch);
  document.querySelectorAll(".frontier").forEach(frontierMarks);
  document.querySelectorAll("button.copy").forEach(copyButton);
})();
