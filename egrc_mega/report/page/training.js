// The curves of one run, or of several over each other.

const WINDOW = 9, SMOOTH_FROM = 40;

function decisionText(decision) {
  const then = decision.opens ? `, ${decision.opens} begins` : ", the run ends";
  return `after step ${decision.step} ${decision.ended} ends${then}: ${decision.reason}`;
}

// evaluations as points of the curves that they belong to
function pointsFor(field, run, place) {
  if (field !== "length" && field !== "accuracy") return [];
  const last = run.curves.steps[run.curves.steps.length - 1];
  return run.evaluation.flatMap((one) => one.rows.filter((row) => row.step !== null && row.step <= last && row[field])
    .map((row) => ({ x: row.step, y: row[field][0], place,
      label: `${row.name}${one.temperature === null ? "" : ` at T ${one.temperature}`}: ${field === "accuracy" ? percent(row[field][0]) : number(row[field][0])}` })));
}

function chartSpec(chart, runs, smooth) {
  const series = [], points = [];
  runs.forEach((run, r) => {
    const fields = runs.length > 1 ? chart.fields.slice(0, 1) : chart.fields;
    fields.forEach(([field, label], i) => {
      const y = run.curves.columns[field];
      if (!y || y.every((v) => v === null)) return;
      const place = runs.length > 1 ? r : i, x = run.curves.steps, name = runs.length > 1 ? run.name : label;
      const long = smooth && x.length >= SMOOTH_FROM;
      if (long) series.push({ label: name, x, y, place, faint: true });
      series.push({ label: name, x, y: long ? smoothed(y, WINDOW) : y, place });
      points.push(...pointsFor(field, run, place));
    });
  });
  // the cursor reads the first line: a bold one
  series.sort((a, b) => (a.faint ? 1 : 0) - (b.faint ? 1 : 0));
  const own = runs.length === 1 ? runs[0].curves : { bands: [], decisions: [] };
  return { title: chart.title, series, points, bands: own.bands, isShare: chart.is_share, isLog: chart.is_log,
    marks: own.decisions.map((one) => ({ step: one.step, text: decisionText(one) })) };
}

function trainingSection(runs) {
  const curves = runs.map((run) => run.curves).filter((one) => one && one.steps.length);
  if (!curves.length) return [el("p", {}, "No step has finished yet.")];
  const drawn = runs.filter((run) => run.curves && run.curves.steps.length), grid = el("div", { class: "grid" });
  const longest = Math.max(...curves.map((one) => one.steps.length));
  const charts = [...new Map(curves.flatMap((one) => one.charts).map((chart) => [chart.title, chart])).values()];
  const smooth = el("input", { type: "checkbox", id: "smooth", checked: longest >= SMOOTH_FROM, change: draw });
  const fields = [...new Set(curves.flatMap((one) => Object.keys(one.columns)))].sort();
  const other = el("select", { id: "field", change: draw }, el("option", { value: "" }, "another number …"), fields.map((f) => el("option", { value: f }, f)));

  function draw() {
    const wanted = other.value ? [{ title: other.value, caption: "field of metrics.jsonl", fields: [[other.value, other.value]] }, ...charts] : charts;
    grid.replaceChildren(...wanted.map((chart) => {
      const spec = chartSpec(chart, drawn, smooth.checked);
      return spec.series.length ? card(chart.title, runs.length > 1 ? chart.fields[0][1] : chart.caption, lineChart(spec)) : null;
    }).filter(Boolean));
  }

  draw();
  const thinned = curves.filter((one) => one.stride > 1).map((one) => `each point is the mean of ${one.stride} of ${one.num_steps} steps`);
  return [
    el("div", { class: "controls" },
      longest >= SMOOTH_FROM ? el("label", {}, smooth, ` moving mean of ${WINDOW}, single values behind it`) : null,
      el("label", {}, "show ", other), thinned.length ? small(thinned[0]) : null),
    grid,
    runs.length === 1 ? decisionList(curves[0]) : null,
  ];
}

function decisionList(curves) {
  if (!curves.decisions.length) return null;
  return el("div", { class: "card gap" }, el("h3", {}, "What the controller decided"),
    el("ul", {}, curves.decisions.map((one) => el("li", {}, decisionText(one)))));
}
