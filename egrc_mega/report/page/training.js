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

const hasSteps = (run) => Boolean(run.curves && run.curves.steps.length);

function trainingSection(runs, keep) {
  if (!runs.some(hasSteps)) return [el("p", {}, "No step has finished yet.")];
  const grid = el("div", { class: "grid" }), note = small(), decided = el("div");
  const smooth = el("input", { type: "checkbox", id: "smooth", checked: true, change: draw });
  const smoothing = el("label", {}, smooth, ` moving mean of ${WINDOW}, single values behind it`);
  const other = el("select", { id: "field", change: draw });
  let titles = null, charts = [];

  function draw() {
    const drawn = runs.filter(hasSteps), curves = drawn.map((run) => run.curves);
    smoothing.hidden = Math.max(...curves.map((one) => one.steps.length)) < SMOOTH_FROM;
    fillSelect(other, "another number …", [...new Set(curves.flatMap((one) => Object.keys(one.columns)))].sort());
    drawCharts([...new Map(curves.flatMap((one) => one.charts).map((chart) => [chart.title, chart])).values()], drawn);
    const thinned = curves.find((one) => one.stride > 1);
    note.textContent = thinned ? `each point is the mean of ${thinned.stride} of ${thinned.num_steps} steps` : "";
    if (runs.length === 1) decided.replaceChildren(...[decisionList(curves[0])].filter(Boolean));
  }

  // charts that are there already are drawn on: a reader's place in them stays
  function drawCharts(known, drawn) {
    const wanted = other.value ? [{ title: other.value, caption: "field of metrics.jsonl", fields: [[other.value, other.value]] }, ...known] : known;
    const specs = wanted.map((chart) => [chart, chartSpec(chart, drawn, smooth.checked)]).filter(([, spec]) => spec.series.length);
    const now = JSON.stringify(specs.map(([chart]) => chart.title));
    if (now === titles) return specs.forEach(([, spec], i) => charts[i].renew(spec));
    titles = now;
    charts = specs.map(([, spec]) => lineChart(spec));
    return grid.replaceChildren(...specs.map(([chart], i) => card(chart.title, runs.length > 1 ? chart.fields[0][1] : chart.caption, charts[i])));
  }

  draw();
  keep(draw);
  return [el("div", { class: "controls" }, smoothing, el("label", {}, "show ", other), note), grid, decided];
}

function decisionList(curves) {
  if (!curves.decisions.length) return null;
  return el("div", { class: "card gap" }, el("h3", {}, "What the controller decided"),
    el("ul", {}, curves.decisions.map((one) => el("li", {}, decisionText(one)))));
}
