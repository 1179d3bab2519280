// Several runs on one page: curves over each other, evaluations side by side, what differs between the configurations.

function compareParts(runs, comparison) {
  return [
    { title: "Runs", id: "runs", make: () => runsSection(runs) },
    { title: "Training", id: "training", make: (keep) => trainingSection(runs, keep) },
    { title: "Evaluation", id: "evaluation", make: () => comparedSection(comparison) },
    { title: "Configuration", id: "configuration", make: () => differencesSection(runs, comparison.settings, "configurations") },
    { title: "Environment", id: "environment", make: () => differencesSection(runs, comparison.environment, "environments") },
  ];
}

function runsSection(runs) {
  return [el("div", { class: "grid" }, runs.map((run, i) => el("div", { class: "card" },
    el("h3", {}, el("i", { class: `key ${colour(i)}` }), run.name), small(run.about.join(" · ")), run.summary.map((sentence) => el("p", { class: "said" }, sentence)))))];
}

function comparedSection(comparison) {
  if (!comparison.tables.length) return [el("p", {}, "The runs have no evaluation in common: nothing was measured by the same protocol.")];
  return [el("div", { class: "stack" }, comparison.tables.map((one) => {
    const points = one.rows.filter((row) => row.accuracy && row.length).map((row) => ({ name: `${row.run}: ${row.name}`, length: row.length, accuracy: row.accuracy, isBase: false, place: row.place }));
    return el("div", { class: "card" }, el("h3", {}, one.title), small(one.caption),
      el("div", { class: points.length > 1 ? "split" : "" }, el("div", {},
        table(["run · point", "accuracy", "mean length", "of base", "n"], one.rows.map((row) =>
          [el("span", {}, el("i", { class: `key ${colour(row.place)}` }), row.run, small(` · ${row.name}`)), estimate(row.accuracy, percent), estimate(row.length, tokens), percent(row.share), number(row.n)]), "Evaluations"),
        pairTable(one.pairs)), points.length > 1 ? el("div", {}, small("first and last point of each run"), pareto(points, "Accuracy against length")) : null));
  }))];
}

function pairTable(pairs) {
  if (!pairs.length) return null;
  const rows = pairs.map((pair) => [`${pair.first} − ${pair.second}`, estimate(pair.accuracy, (v) => `${v > 0 ? "+" : ""}${(100 * v).toFixed(1)}`),
    number(pair.accuracy_p), `${pair.better} / ${pair.worse}`, estimate(pair.length, percent), number(pair.length_p), el("span", { class: "note" }, pair.note)]);
  return el("div", {}, el("h4", {}, "Paired differences, problem by problem"),
    table(["runs", "accuracy, points", "p", "better / worse", "length ratio", "p", "over"], rows, "Paired differences"));
}

function differencesSection(runs, rows, what) {
  if (!rows.length) return [el("p", {}, `The ${what} do not differ.`)];
  return [el("div", { class: "card" }, table(["name", ...runs.map((run) => run.name)], rows.map(([name, ...values]) =>
    [el("code", {}, name), ...values.map((value) => (value === null ? "-" : el("code", { class: "wrap" }, value)))]), what))];
}
