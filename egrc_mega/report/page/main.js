// Puts the page together. What comes from a run's files is text everywhere.

// make: the children of the part's section; data: what they are made of, where they are made anew when it changes
function partsOf(run) {
  const hasRun = run.state !== "no run", hasTexts = run.rollouts.groups.length + run.responses.problems.length > 0;
  const parts = [
    { title: "Evaluation", id: "evaluation", data: run.evaluation, make: () => evaluationSection(run.evaluation) },
    { title: "Training", id: "training", isOfRun: true, data: hasSteps(run), make: (keep) => trainingSection([run], keep) },
    { title: "Responses", id: "responses", data: hasTexts, make: (keep) => browserSection(run, keep) },
    { title: "Diagnosis", id: "diagnosis", data: run.diagnosis, make: () => diagnosisSection(run.diagnosis) },
    { title: "Time and memory", id: "time", isOfRun: true, data: run.times, make: () => timesSection(run.times) },
    { title: "Faults and recoveries", id: "faults", isOfRun: true, data: run.incidents, make: () => incidentsSection(run.incidents) },
    { title: "Configuration", id: "configuration", data: run.settings, make: () => settingsSection(run.settings) },
    { title: "Environment", id: "environment", data: run.environment, make: () => environmentSection(run.environment) },
  ];
  return parts.filter((part) => hasRun || !part.isOfRun);
}

// the node, and how to renew it where its part has said so by keep(renew)
function section(part) {
  const drawn = { part, renew: null };
  const children = part.make((renew) => { drawn.renew = renew; });
  drawn.node = el("section", { id: part.id, "aria-labelledby": `${part.id}-title` }, el("h2", { id: `${part.id}-title` }, part.title), children);
  return drawn;
}

function header(run, isLive = false) {
  const state = !isLive && run.state === "still running, or stopped early" ? el("b", {}, ` · ${run.state}`) : null;
  return el("header", { id: "top" }, el("h1", {}, run.name), el("p", { class: "soft" }, run.about.join(" · "), state),
    run.missing.length ? el("p", {}, small(`Not in this folder: ${run.missing.join(", ")}.`)) : null,
    el("div", { class: "summary" }, run.summary.map((sentence) => el("p", {}, sentence))));
}

function show(main, head, parts) {
  const drawn = parts.map(section);
  const links = el("nav", { "aria-label": "Parts of the page" }, parts.map((part) => el("a", { href: `#${part.id}` }, part.title)));
  main.replaceChildren(...head, links, ...drawn.map((one) => one.node));
  return drawn;
}

function markDrawn() {
  performance.mark("egrc-drawn");
  requestAnimationFrame(() => requestAnimationFrame(() => {
    performance.mark("egrc-interactive");
    document.documentElement.dataset.interactiveMs = Math.round(performance.getEntriesByName("egrc-interactive")[0].startTime);
  }));
}

function start() {
  const main = document.getElementById("main"), runs = DATA.runs;
  if (!runs) return follow(main);
  if (runs.length > 1) {
    const head = el("header", { id: "top" }, el("h1", {}, DATA.name), el("p", { class: "soft" }, `${runs.length} runs compared`));
    show(main, [head], compareParts(runs, DATA.comparison));
  } else {
    show(main, [header(runs[0])], partsOf(runs[0]));
  }
  return markDrawn();
}

start();
