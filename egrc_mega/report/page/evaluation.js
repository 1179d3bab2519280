// Tables of evaluations with intervals and budgets, and accuracy against length.

function evaluationSection(tables) {
  if (!tables.length) return [el("p", {}, "Nothing has been measured yet.")];
  return [
    el("div", { class: "stack" }, tables.map(evaluationCard)),
    el("p", {}, small("L-Acc = accuracy × √(1 − length / base length), so the base's own is 0. A response cut by the cap counts at its full length; an ungraded one is no zero: it is left out of the accuracy and counted.")),
  ];
}

function evaluationCard(one) {
  const title = one.temperature === null ? one.benchmark : `${one.benchmark} at temperature ${one.temperature}`;
  const points = one.rows.filter((row) => row.accuracy && row.length).map((row, i) =>
    ({ name: row.name, length: row.length, accuracy: row.accuracy, isBase: row.is_base, place: i }));
  return el("div", { class: "card" }, el("h3", {}, title), small(`${one.caption} · ${one.intervals}`),
    el("div", { class: points.length > 1 ? "split" : "" },
      el("div", {}, evaluationTable(one), one.pass_at && Object.keys(one.pass_at).length ? passAt(one.pass_at) : null),
      points.length > 1 ? el("div", {}, small("accuracy against length; the line joins what nothing beats in both"), pareto(points, `Accuracy against length, ${title}`)) : null),
    one.budgets ? budgetTable(one.budgets) : null);
}

function reasonsText(reasons) {
  return Object.entries(reasons).sort((a, b) => b[1] - a[1]).map(([reason, count]) => `${reason} ${count}`).join(", ");
}

function evaluationTable(one) {
  const hasBase = one.rows.some((row) => row.share !== null);
  const head = ["model", "accuracy", "mean length", ...(hasBase ? ["of base", "L-Acc"] : []), "n", "cut", "ungraded"];
  const rows = one.rows.map((row) => [
    el("span", { title: reasonsText(row.reasons) }, row.name, el("br"), small(row.weights)),
    estimate(row.accuracy, percent), estimate(row.length, tokens),
    ...(hasBase ? [percent(row.share), row.l_acc ? percent(row.l_acc[0]) : "-"] : []),
    number(row.n), row.truncated === null ? "-" : number(row.truncated),
    el("span", { class: row.ungraded ? "ungraded" : "" }, number(row.ungraded)),
  ]);
  return table(head, rows, "Evaluation");
}

function passAt(shares) {
  return table(["", ...Object.keys(shares).map((k) => `pass@${k}`)], [["chance that one of k is right", ...Object.values(shares).map((s) => estimate(s, percent))]], "pass@k");
}

function budgetTable(budgets) {
  const rows = budgets.rows.map((row) => [el("span", {}, row.name, el("br"), small(`${row.num} responses kept`)), ...row.cells.map((cell) => estimate(cell, percent))]);
  return el("div", {}, el("h4", {}, "Accuracy at token budgets"), small("from the same samples: right, and ended within so many tokens"),
    table(["model", ...budgets.budgets.map((b) => number(b))], rows, "Accuracy at token budgets"));
}
