// Line charts over steps: stage bands, marks where the controller decided, squares for evaluations, and the values at
// a cursor that follows the pointer or the arrow keys.

const LEFT = 46, RIGHT = 12, TOP = 16, BOTTOM = 24, HEIGHT = 200;
const NUM_COLOURS = 8;
const colour = (i) => `c${i % NUM_COLOURS}`;

function ticks(low, high, most) {
  const rough = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(rough || 1));
  const size = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) || power;
  const found = [];
  for (let at = Math.ceil(low / size - 1e-9) * size; at <= high + size * 1e-6; at += size) found.push(Math.abs(at) < size * 1e-6 ? 0 : at);
  return found;
}

function logTicks(low, high) {
  const found = [], every = Math.max(1, Math.ceil((high - low) / 4));
  for (let at = Math.ceil(low); at <= high; at += every) found.push(at);
  return found.length ? found : [low];
}

// spec: {title, series: [{label, x, y, faint, place}], points: [{x, y, label}], bands, marks, isShare, isLog, unit}
function lineChart(spec) {
  const frame = el("div", { class: "chart", tabindex: 0, role: "img", "aria-label": `${spec.title}; arrow keys read values` });
  const readout = el("div", { class: "legend" });
  const holder = el("div", {}, frame, readout);
  let at = null, scale = null;

  function draw() {
    const width = frame.clientWidth || 360;
    scale = scaleOf(spec, width);
    frame.replaceChildren(svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
      bandsOf(spec, scale), axesOf(spec, scale), linesOf(spec, scale), pointsOf(spec, scale), cursorOf(spec, scale, at)));
    readout.replaceChildren(...legendOf(spec, at));
  }

  function move(to) {
    const xs = spec.series[0].x;
    at = to === null ? null : Math.min(Math.max(to, 0), xs.length - 1);
    draw();
  }

  frame.addEventListener("pointermove", (event) => move(nearest(spec.series[0].x, scale.back(event.offsetX))));
  frame.addEventListener("pointerleave", () => move(null));
  frame.addEventListener("blur", () => move(null));
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    const edge = { Home: 0, End: Infinity }[event.key];
    if (step === undefined && edge === undefined) return;
    event.preventDefault();
    move(edge !== undefined ? edge : (at === null ? (step > 0 ? -1 : spec.series[0].x.length) : at) + step);
  });
  onResize(frame, draw);
  holder.renew = (next) => {
    spec = next;
    at = at === null ? null : Math.min(at, spec.series[0].x.length - 1);
    draw();
  };
  return holder;
}

// drawn when it first has a width, and when that changes
function onResize(node, draw) {
  let width = -1;
  const observer = new ResizeObserver(() => {
    if (node.clientWidth === width || !node.clientWidth) return;
    width = node.clientWidth;
    draw();
  });
  observer.observe(node);
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle; else high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

function scaleOf(spec, width) {
  const known = (y) => y !== null && y !== undefined && (!spec.isLog || y > 0);
  const view = (y) => (spec.isLog ? Math.log10(y) : y);
  let low = Infinity, high = -Infinity, first = Infinity, last = -Infinity;
  for (const one of spec.series) {
    for (let i = 0; i < one.x.length; i++) {
      if (one.x[i] < first) first = one.x[i];
      if (one.x[i] > last) last = one.x[i];
      if (!known(one.y[i])) continue;
      if (view(one.y[i]) < low) low = view(one.y[i]);
      if (view(one.y[i]) > high) high = view(one.y[i]);
    }
  }
  for (const point of spec.points || []) {
    first = Math.min(first, point.x); last = Math.max(last, point.x);
    low = Math.min(low, point.y); high = Math.max(high, point.y);
  }
  if (low > high) [low, high] = [0, 1];
  if (!spec.isLog) low = Math.min(0, low);
  if (spec.isShare) high = Math.max(1, high);
  if (high - low < 1e-12) high = low + (Math.abs(low) || 1);
  const room = (high - low) * 0.04;
  high += room;
  if (low < 0 || spec.isLog) low -= room;
  if (last <= first) last = first + 1;
  const inner = width - LEFT - RIGHT, tall = HEIGHT - TOP - BOTTOM;
  return {
    width, low, high, first, last, known,
    x: (step) => LEFT + (inner * (step - first)) / (last - first),
    y: (value) => TOP + tall * (1 - (view(value) - low) / (high - low)),
    back: (pixel) => first + ((pixel - LEFT) / inner) * (last - first),
  };
}

function bandsOf(spec, scale) {
  return (spec.bands || []).map((band, i) => {
    const from = Math.max(LEFT, scale.x(band.first - 0.5)), to = Math.min(scale.width - RIGHT, scale.x(band.last + 0.5));
    if (to <= from) return null;
    const fits = to - from > 6.2 * band.label.length + 6;
    return svg("g", {},
      svg("rect", { x: from, y: TOP - 14, width: to - from, height: HEIGHT - TOP - BOTTOM + 14, class: i % 2 ? "band odd" : "band" }),
      fits ? svg("text", { x: from + 4, y: TOP - 4, class: "band-label" }, band.label) : null);
  });
}

function axesOf(spec, scale) {
  const parts = [];
  const rows = spec.isLog ? logTicks(scale.low, scale.high).map((t) => 10 ** t) : ticks(scale.low, scale.high, 4);
  for (const value of rows) {
    const y = scale.y(value);
    parts.push(svg("line", { x1: LEFT, x2: scale.width - RIGHT, y1: y, y2: y, class: "grid" }),
      svg("text", { x: LEFT - 6, y: y + 3.5, class: "tick end" }, spec.isShare ? `${Math.round(100 * value)}%` : number(value)));
  }
  for (const step of ticks(scale.first, scale.last, scale.width / 90)) {
    if (Number.isInteger(step)) parts.push(svg("text", { x: scale.x(step), y: HEIGHT - 8, class: "tick middle" }, step.toLocaleString("en")));
  }
  for (const mark of spec.marks || []) {
    const x = scale.x(mark.step + 0.5);
    parts.push(svg("line", { x1: x, x2: x, y1: TOP - 14, y2: HEIGHT - BOTTOM, class: "mark" }, svg("title", {}, mark.text)));
  }
  return parts;
}

function linesOf(spec, scale) {
  return spec.series.map((one, i) => {
    let path = "", pen = "M";
    for (let k = 0; k < one.x.length; k++) {
      if (!scale.known(one.y[k])) { pen = "M"; continue; }
      path += `${pen}${scale.x(one.x[k]).toFixed(1)} ${scale.y(one.y[k]).toFixed(1)}`;
      pen = "L";
    }
    return svg("path", { d: path, class: `line ${colour(one.place ?? i)}${one.faint ? " faint" : ""}` });
  });
}

function pointsOf(spec, scale) {
  return (spec.points || []).map((point) =>
    svg("rect", { x: scale.x(point.x) - 3.5, y: scale.y(point.y) - 3.5, width: 7, height: 7, class: `point ${colour(point.place || 0)}` },
      svg("title", {}, point.label)));
}

function cursorOf(spec, scale, at) {
  if (at === null) return null;
  const x = scale.x(spec.series[0].x[at]);
  const dots = spec.series.filter((one) => !one.faint && scale.known(one.y[at]) && one.x.length > at)
    .map((one, i) => svg("circle", { cx: scale.x(one.x[at]), cy: scale.y(one.y[at]), r: 3.2, class: `dot ${colour(one.place ?? i)}` }));
  return [svg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }), ...dots];
}

function legendOf(spec, at) {
  const shown = spec.series.filter((one) => !one.faint);
  const show = (value) => (spec.isShare ? percent(value) : number(value));
  const entries = shown.map((one, i) =>
    el("span", {}, el("i", { class: `key ${colour(one.place ?? i)}` }), one.label,
      at === null || at >= one.y.length ? "" : el("b", {}, ` ${show(one.y[at])}`)));
  return at === null ? (entries.length > 1 ? entries : []) : [el("span", { class: "where" }, `step ${spec.series[0].x[at]}`), ...entries];
}

// means over a window around each point, of what is known
function smoothed(values, window) {
  const half = window >> 1;
  return values.map((value, i) => {
    if (value === null || value === undefined) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((v) => v !== null && v !== undefined);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
}
