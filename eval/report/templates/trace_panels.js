"use strict";
/* What the trace explorer draws: the traces of one model on one problem as bars, and a text with its reasoning words.
   Texts are written with textContent only. */
const tracePanels = (() => {
  const DENSE = 96; // traces from which bars become thin
  const PALETTE = 7; // clusters with a colour of their own
  const HAN = "\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3ffff}"; // Chinese characters

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null)); // strings become text nodes
    return element;
  }

  const bdi = (text) => make("bdi", "", text);
  const count = (number) => number.toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(0)} %`;

  function verdict(right) {
    return make("strong", right ? "right" : "wrong", right ? "✓" : "✕", make("span", "hidden-words", right ? " right" : " wrong"));
  }

  function clusterName(rank) {
    if (rank === null) return "–";
    const letter = String.fromCharCode(65 + (rank % 26));
    return rank < 26 ? letter : clusterName(Math.floor(rank / 26) - 1) + letter;
  }

  const tint = (rank) => `c${rank === null ? PALETTE : Math.min(rank, PALETTE)}`;

  function answerOf(model, place) {
    return place === null ? "no answer" : model.names[place];
  }

  function ballots(model, run) {
    return run.vote === null ? 0 : run.survivors.filter((trace) => model.answers[trace] === run.vote).length;
  }

  function voteLine(label, model, run) {
    const result = run.vote === null ? "none" : answerOf(model, run.vote);
    return make("div", "", `${label} `, verdict(run.right), " ", bdi(result), make("span", "soft", ` · ${ballots(model, run)} of ${run.survivors.length} voters`));
  }

  /* `read(view, trace)` opens a trace in the reader. */
  function drawPanel(name, model, runPlace, axis, read) {
    const run = model.runs[runPlace];
    const consensus = model.runs[model.runs.length - 1];
    const [spent, total] = [run.kept, model.n_tokens].map((list) => list.reduce((a, b) => a + b, 0));
    const head = make("div", "head", make("div", "name", bdi(name)), voteLine("vote", model, run));
    if (run !== consensus) head.append(voteLine("consensus", model, consensus));
    const share = total ? 1 - spent / total : 0;
    head.append(make("div", "soft", `${count(spent)} of ${count(total)} tokens generated, −${percent(share)}`));
    const panel = make("section", model.n_tokens.length > DENSE ? "panel dense" : "panel", head);
    panel.setAttribute("aria-label", name);
    const order = [];
    for (const [rank, traces] of clusters(model, run)) {
      const clustered = run.labels.some((label) => label !== null);
      const group = make("div", clustered ? tint(rank) : "c0");
      if (clustered) group.append(clusterHead(rank, traces, model));
      for (const trace of traces) {
        group.append(traceButton({ name, model, run, order, read }, trace, rank, axis, order.length === 0));
        order.push(trace);
      }
      panel.append(group);
    }
    panel.addEventListener("keydown", (event) => roam(event, [...panel.querySelectorAll(".trace")]));
    const scale = make("span", "", ...[0, axis / 2, axis].map((tick) => make("i", "", tick === axis ? `${count(tick)} tokens` : count(tick))));
    panel.append(make("div", "axis", scale));
    return panel;
  }

  /* [rank, traces]: the largest cluster first, traces without one last; voters before the others, then by length. */
  function clusters(model, run) {
    const groups = new Map();
    run.labels.forEach((rank, trace) => groups.set(rank, [...(groups.get(rank) ?? []), trace]));
    const voters = new Set(run.survivors);
    const before = (a, b) => voters.has(b) - voters.has(a) || model.n_tokens[b] - model.n_tokens[a] || a - b;
    const last = (rank) => (rank === null ? Infinity : rank);
    return [...groups].sort(([a], [b]) => last(a) - last(b)).map(([rank, traces]) => [rank, traces.sort(before)]);
  }

  function clusterHead(rank, traces, model) {
    const tally = new Map();
    for (const trace of traces) tally.set(model.answers[trace], (tally.get(model.answers[trace]) ?? 0) + 1);
    const top = [...tally].sort((a, b) => b[1] - a[1]).slice(0, 3);
    const words = rank === null ? "in no cluster: " : "";
    const head = make("div", "cluster", make("b", "", clusterName(rank)), make("span", "", `${words}${traces.length} trace${traces.length > 1 ? "s" : ""}`));
    const answers = top.map(([answer, times]) => make("span", "", bdi(answerOf(model, answer).slice(0, 20)), ` (${times})`));
    head.append(make("span", "", answers.length > 1 ? "answers" : "answer"), ...answers, tally.size > top.length ? "…" : "");
    return head;
  }

  function stateOf(view, trace) {
    const [kept, length] = [view.run.kept[trace], view.model.n_tokens[trace]];
    if (kept === 0) return `never started; its ${count(length)} tokens were saved`;
    if (kept < length) return `stopped after ${count(kept)} of ${count(length)} tokens`;
    return `ran to its end, ${count(length)} tokens${view.run.survivors.includes(trace) ? ", and voted" : ", without a vote"}`;
  }

  function traceButton(view, trace, rank, axis, first) {
    const { model, run } = view;
    const [length, kept, cut] = [model.n_tokens[trace], run.kept[trace], model.cut_tokens[trace]];
    const lane = make("span", "lane", bar("solid", 0, kept, axis));
    if (kept < length) lane.append(bar("unspent-bar", kept, length - kept, axis));
    if (cut !== null && cut <= length) lane.append(bar("cut", cut, 0, axis));
    const who = make("span", "who", run.survivors.includes(trace) ? make("span", "vote-mark", "●") : null, clusterName(rank));
    const end = make("span", "end", verdict(model.right[trace]), " ", bdi(answerOf(model, model.answers[trace])));
    const button = make("button", "trace", who, lane, end);
    button.type = "button";
    button.tabIndex = first ? 0 : -1;
    button.title = `trace ${trace} · cluster ${clusterName(rank)} · ${stateOf(view, trace)}`;
    button.setAttribute("aria-label", `${button.title} · answer ${answerOf(model, model.answers[trace])}, ${model.right[trace] ? "right" : "wrong"}`);
    button.addEventListener("click", () => view.read(view, trace));
    return button;
  }

  function bar(className, from, tokens, axis) {
    const element = make("span", className);
    element.style.left = `${(100 * from) / axis}%`;
    if (tokens) element.style.width = `${(100 * tokens) / axis}%`;
    else if (className === "solid") element.hidden = true;
    return element;
  }

  /* Arrow keys, Home and End among buttons of which only one is a stop of the Tab key. */
  function roam(event, buttons) {
    const here = buttons.indexOf(document.activeElement);
    const targets = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + 10, PageUp: here - 10, Home: 0, End: buttons.length - 1 };
    if (here < 0 || !(event.key in targets)) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(targets[event.key], 0), buttons.length - 1)];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  /* An English word is a run of letters, a Chinese one stands in running text: the rule of secateur/deepprune/cut.py. */
  function wordPattern(words) {
    const chinese = [...words].filter((word) => new RegExp(`[${HAN}]`, "u").test(word));
    return new RegExp([`(?:(?![${HAN}])\\p{L})+`, ...chinese].join("|"), "gu");
  }

  function highlighted(text, className, words) {
    const part = make("span", className);
    let end = 0;
    for (const match of text.matchAll(wordPattern(words))) {
      if (!words.has(match[0].toLowerCase())) continue;
      part.append(text.slice(end, match.index), make("mark", "", match[0]));
      end = match.index + match[0].length;
    }
    part.append(text.slice(end));
    return part;
  }

  return { answerOf, bdi, clusterName, count, drawPanel, highlighted, make, percent, roam, stateOf, verdict };
})();
