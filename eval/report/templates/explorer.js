"use strict";
/* The trace explorer: the list of problems, the problem that is shown, and the reader. A problem is unpacked out of its
   compressed block when it is shown; trace_panels.js draws it. */
(() => {
  const root = document.getElementById("explorer");
  if (!root) return;
  if (!("DecompressionStream" in window)) {
    root.textContent = "This browser is too old to unpack the traces; any of 2023 or later can.";
    root.hidden = false;
    return;
  }
  const byId = (id) => document.getElementById(id);
  const { answerOf, bdi, clusterName, count, drawPanel, highlighted, make, percent, roam, stateOf, verdict } = tracePanels;
  const ALL = "all"; // every benchmark together
  let index; // {models, benchmarks, runs, words, problems}; runs are by benchmark and model
  let shown = []; // places in index.problems, as listed
  let current = -1; // place of the problem that is drawn
  let problem = null; // its contents, and its place
  let open = null; // {view, trace} in the reader
  let kept = null; // {view, trace} beside it

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  /* Which benchmark and which models are looked at, and which of a model's runs belongs to the chosen method. */
  function isOffered(entry) {
    const wanted = byId("benchmark")?.value ?? ALL;
    return wanted === ALL || index.benchmarks[entry.benchmark] === wanted;
  }

  function chosenModels() {
    const value = byId("model").value;
    return value === "all" ? index.models.map((_, place) => place) : [Number(value)];
  }

  function runOf(benchmark, model) {
    return Math.max(index.runs[benchmark][model].indexOf(byId("run").value), 0);
  }

  /* The list of problems */
  function summaries(entry) {
    return chosenModels().map((model) => entry.runs[model][runOf(entry.benchmark, model)]).filter(Boolean);
  }

  const saved = (place) => {
    const found = summaries(index.problems[place]);
    return found.reduce((sum, run) => sum + run.saved, 0) / Math.max(found.length, 1);
  };

  const FILTERS = {
    all: () => true,
    saved: () => true,
    changed: (run) => run.changed,
    lost: (run) => run.consensus_right && !run.right,
    wrong: (run) => !run.consensus_right,
  };

  function listProblems() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const show = byId("show").value;
    const offered = index.problems.map((_, place) => place).filter((place) => isOffered(index.problems[place]));
    shown = offered.filter((place) => {
      const entry = index.problems[place];
      const text = `${entry.id} ${entry.problem}`.toLowerCase();
      return words.every((word) => text.includes(word)) && summaries(entry).some(FILTERS[show]);
    });
    if (show === "saved") shown.sort((a, b) => saved(b) - saved(a));
    byId("problems").replaceChildren(...shown.map(problemButton));
    byId("problem-count").textContent = `${shown.length} of ${offered.length} problems`;
    if (shown.length === 0) clearProblem();
    else if (shown.includes(current)) markCurrent();
    else showProblem(shown[0]);
  }

  /* Of several benchmarks, problems may have the same id. */
  const nameOf = (benchmark, id) => (index.benchmarks.length > 1 ? `${index.benchmarks[benchmark]} · ${id}` : id);

  function problemButton(place) {
    const entry = index.problems[place];
    const marks = make("span", "marks", ...summaries(entry).map((run) => verdict(run.right)), ` −${percent(saved(place))}`);
    const text = make("span", "text", bdi(entry.problem));
    const button = make("button", "", make("span", "id", bdi(nameOf(entry.benchmark, entry.id))), text, marks);
    button.type = "button";
    button.tabIndex = -1;
    button.dataset.place = place;
    button.addEventListener("click", () => {
      showProblem(place);
      location.replace(linkOf(place));
    });
    return make("li", "", button);
  }

  /* Every problem has an address of its own. */
  function linkOf(place) {
    const { id, benchmark } = index.problems[place];
    const several = index.benchmarks.length > 1 ? { benchmark: index.benchmarks[benchmark] } : {};
    return `#${new URLSearchParams({ problem: id, ...several })}`;
  }

  /* Shows the problem that the address names, whatever is filtered, and says whether it names one. */
  function followLink() {
    const place = index.problems.findIndex((_, at) => linkOf(at) === `#${new URLSearchParams(location.hash.slice(1))}`);
    if (place < 0) return false;
    if (!shown.includes(place)) {
      byId("search").value = "";
      byId("show").value = "all";
      if (byId("benchmark") && !isOffered(index.problems[place])) {
        byId("benchmark").value = index.benchmarks[index.problems[place].benchmark];
        byId("benchmark").dispatchEvent(new Event("change", { bubbles: true }));
      }
      listProblems();
    }
    if (place !== current) showProblem(place);
    byId("problems").querySelector(`[data-place="${place}"]`)?.scrollIntoView({ block: "nearest" });
    return true;
  }

  function markCurrent() {
    for (const button of byId("problems").querySelectorAll("button")) {
      const here = Number(button.dataset.place) === current;
      button.tabIndex = here ? 0 : -1;
      if (here) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /* One problem */
  function clearProblem() {
    current = -1;
    problem = null;
    byId("problem").replaceChildren(make("p", "soft", "No problem is like that."));
  }

  async function showProblem(place) {
    current = place;
    markCurrent();
    const found = await unpack(`problem-${place}`);
    if (current !== place) return; // another one was asked for meanwhile
    problem = { ...found, place };
    drawProblem();
  }

  function drawProblem() {
    if (!problem) return;
    const { benchmark } = index.problems[problem.place];
    const question = make("p", "question", problem.problem);
    question.dir = "auto";
    const link = make("a", "", "link to this problem");
    link.href = linkOf(problem.place);
    const about = make("p", "soft", "right answer ", bdi(problem.gold), " · ", bdi(nameOf(benchmark, problem.id)), " · ", link);
    const names = chosenModels().filter((model) => problem.models[model]);
    const lengths = names.flatMap((model) => problem.models[model].n_tokens);
    const axis = Math.max(20, Math.ceil(lengths.reduce((a, b) => Math.max(a, b), 0) / 20) * 20);
    const panels = names.map((model) => drawPanel(index.models[model], problem.models[model], runOf(benchmark, model), axis, read));
    byId("problem").replaceChildren(question, about, make("div", "panels", ...panels));
  }

  /* The reader, and beside it the trace that was kept to be compared with */
  function read(view, trace) {
    open = { view, trace };
    writePage("reader", view, trace);
    if (!byId("reader").open) byId("reader").showModal();
  }

  function writePage(prefix, view, trace) {
    const { model, run } = view;
    const [before, after] = model.texts[trace];
    const [spent, cut] = [run.kept[trace], model.cut_tokens[trace]];
    byId(`${prefix}-title`).replaceChildren(bdi(view.name), ` · trace ${trace} · cluster ${clusterName(run.labels[trace])}`);
    byId(`${prefix}-about`).replaceChildren(
      `${stateOf(view, trace)} · ${spent < model.n_tokens[trace] ? "would have answered" : "answered"} `,
      bdi(answerOf(model, model.answers[trace])), " ", verdict(model.right[trace]),
    );
    const text = byId(`${prefix}-text`);
    text.replaceChildren(highlighted(before, spent === 0 ? "unspent" : "", index.words));
    if (after !== undefined) {
      const note = spent === cut && spent < model.n_tokens[trace] ? ": the trace was stopped here, the rest never generated" : ": what the judge had read";
      text.append(make("span", "cut-line", `✂ cut after ${count(cut)} tokens${note}`), highlighted(after, spent <= cut ? "unspent" : "", index.words));
    }
    if (!before && !after) text.replaceChildren(make("em", "", "The text of this trace is not in this report."));
    text.scrollTop = 0;
  }

  /* The trace in the reader stays at the left while others are read at the right, until it is let go. */
  function keepOrLetGo() {
    kept = kept ? null : open;
    byId("kept").hidden = !kept;
    byId("keep").setAttribute("aria-pressed", String(Boolean(kept)));
    byId("keep").textContent = kept ? "Stop comparing" : "Compare";
    byId("reader").classList.toggle("wide", Boolean(kept));
    if (kept) writePage("kept", kept.view, kept.trace);
  }

  function step(by) {
    const { view, trace } = open;
    const place = view.order.indexOf(trace) + by;
    if (view.order[place] !== undefined) read(view, view.order[place]);
  }

  function wireReader() {
    const dialog = byId("reader");
    byId("keep").addEventListener("click", keepOrLetGo);
    byId("close").addEventListener("click", () => dialog.close());
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
    });
  }

  /* The recommended method of what is looked at, until the reader takes another. */
  function takeRecommended() {
    const wanted = index.recommended[byId("benchmark")?.value ?? index.benchmarks[0]];
    if (!byId("run").dataset.taken && [...byId("run").options].some((one) => one.value === wanted)) byId("run").value = wanted;
  }

  function option(value, text) {
    const element = make("option", "", text);
    element.value = value;
    return element;
  }

  async function start() {
    index = await unpack("index");
    index.words = new Set(index.words);
    const models = index.models.map((name, place) => option(place, name));
    byId("model").append(...(models.length > 1 ? [option("all", "all, side by side")] : []), ...models);
    byId("run").append(...[...new Set(index.runs.flat(2))].map((label) => option(label, label)));
    for (const id of ["model", "run"]) byId(id).addEventListener("change", () => { listProblems(); drawProblem(); });
    byId("show").addEventListener("change", listProblems);
    byId("run").addEventListener("change", () => { byId("run").dataset.taken = true; });
    document.addEventListener("view", () => { takeRecommended(); listProblems(); drawProblem(); });
    window.addEventListener("hashchange", followLink);
    byId("search").addEventListener("input", listProblems);
    byId("problems").addEventListener("keydown", (event) => roam(event, [...byId("problems").querySelectorAll("button")]));
    wireReader();
    root.hidden = false;
    takeRecommended();
    listProblems();
    if (followLink()) byId("traces").scrollIntoView();
  }

  start();
})();
