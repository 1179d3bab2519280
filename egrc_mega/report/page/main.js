// Puts the page together. What comes from a run's files is text everywhere.

function partsOf(run) {
  return [
    ["Evaluation", "evaluation", () => evaluationSection(run.evaluation)],
    ["Training", "training", () => (run.state === "no run" ? [] : trainingSection([run]))],
    ["Responses", "responses", () => browserSection(run)],
    ["Diagnosis", "diagnosis", () => diagnosisSection(run.diagnosis)],
    ["Time and memory", "time", () => (run.state === "no run" ? [] : timesSection(run.times))],
    ["Faults and recoveries", "faults", () => (run.state === "no run" ? [] : incidentsSection(run.incidents))],
    ["Configuration", "configuration", () => settingsSection(run.settings)],
    ["Environment", "environment", () => environmentSection(run.environment)],
  ];
}

function section(title, id, children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), children);
}

function header(run) {
  const state = run.state === "still running, or stopped early" ? el("b", {}, ` · ${run.state}`) : null;
  return el("header", { id: "top" }, el("h1", {}, run.name), el("p", { class: "soft" }, run.about.join(" · "), state),
    run.missing.length ? el("p", {}, small(`Not in this folder: ${run.missing.join(", ")}.`)) : null,
    el("div", { class: "summary" }, run.summary.map((sentence) => el("p", {}, sentence))));
}

function show(main, head, parts) {
  const shown = parts.filter(([, , children]) => children.length);
  const links = el("nav", { "aria-label": "Parts of the page" }, shown.map(([title, id]) => el("a", { href: `#${id}` }, title)));
  main.replaceChildren(head, links, ...shown.map(([title, id, children]) => section(title, id, children)));
}

function start() {
  const main = document.getElementById("main"), runs = DATA.runs;
  if (runs.length > 1) {
    const head = el("header", { id: "top" }, el("h1", {}, DATA.name), el("p", { class: "soft" }, `${runs.length} runs compared`));
    show(main, head, compareParts(runs, DATA.comparison));
  } else {
    show(main, header(runs[0]), partsOf(runs[0]).map(([title, id, make]) => [title, id, make()]));
  }
  performance.mark("egrc-drawn");
  requestAnimationFrame(() => requestAnimationFrame(() => {
    performance.mark("egrc-interactive");
    document.documentElement.dataset.interactiveMs = Math.round(performance.getEntriesByName("egrc-interactive")[0].startTime);
  }));
}

start();
