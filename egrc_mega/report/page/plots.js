// Accuracy against length, and time split by phases.

const PLOT_HEIGHT = 280;

// points: [{name, length: [v, low, high], accuracy: [v, low, high], isBase, place}]
function pareto(points, label) {
  const frame = el("div", { class: "chart", role: "img", "aria-label": label });
  onResize(frame, () => frame.replaceChildren(drawPareto(points, frame.clientWidth)));
  return frame;
}

function beaten(point, points) {
  return points.some((other) => other.length[0] <= point.length[0] && other.accuracy[0] >= point.accuracy[0] &&
    (other.length[0] < point.length[0] || other.accuracy[0] > point.accuracy[0]));
}

function drawPareto(points, width) {
  const ends = (key) => points.flatMap((point) => point[key]).filter((v) => v !== null && v !== undefined);
  const span = (values) => {
    const low = Math.min(...values), high = Math.max(...values), room = (high - low) * 0.1 || Math.abs(high) * 0.1 || 1;
    return [Math.max(0, low - room), high + room];
  };
  const [x0, x1] = span(ends("length")), [y0, y1] = span(ends("accuracy"));
  const x = (v) => LEFT + ((width - LEFT - RIGHT) * (v - x0)) / (x1 - x0);
  const y = (v) => TOP + (PLOT_HEIGHT - TOP - 38) * (1 - (v - y0) / (y1 - y0));
  const front = points.filter((point) => !beaten(point, points)).sort((a, b) => a.length[0] - b.length[0]);
  let path = "";
  front.forEach((point, i) => { path += i ? `H${x(point.length[0])}V${y(point.accuracy[0])}` : `M${x(point.length[0])} ${y(point.accuracy[0])}`; });
  const grid = [
    ...ticks(y0, y1, 4).map((v) => [svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v), class: "grid" }),
      svg("text", { x: LEFT - 6, y: y(v) + 3.5, class: "tick end" }, `${Number((100 * v).toFixed(1))}%`)]),
    ...ticks(x0, x1, width / 90).map((v) => svg("text", { x: x(v), y: PLOT_HEIGHT - 22, class: "tick middle" }, number(v))),
    svg("text", { x: (LEFT + width - RIGHT) / 2, y: PLOT_HEIGHT - 5, class: "tick middle" }, "mean length (tokens)"),
  ];
  return svg("svg", { width, height: PLOT_HEIGHT, viewBox: `0 0 ${width} ${PLOT_HEIGHT}` },
    grid, svg("path", { d: path, class: "front" }), points.map((point) => paretoPoint(point, x, y, width)), paretoNames(points, x, y, width));
}

function paretoPoint(point, x, y, width) {
  const at = { x: x(point.length[0]), y: y(point.accuracy[0]) }, own = point.isBase ? "base" : colour(point.place || 0);
  const bar = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2, class: `bar ${own}` });
  return svg("g", {},
    point.length.length > 2 ? bar(x(point.length[1]), at.y, x(point.length[2]), at.y) : null,
    point.accuracy.length > 2 ? bar(at.x, y(point.accuracy[1]), at.x, y(point.accuracy[2])) : null,
    point.isBase ? svg("rect", { x: at.x - 4, y: at.y - 4, width: 8, height: 8, class: `point ${own}` })
      : svg("circle", { cx: at.x, cy: at.y, r: 4.5, class: `point ${own}` }),
    svg("title", {}, `${point.name}: ${percent(point.accuracy[0])} at ${number(point.length[0])} tokens`));
}

// each name where it covers no other one; a name without such a place is left to the table
function paretoNames(points, x, y, width) {
  const taken = points.map((point) => [x(point.length[0]) - 5, y(point.accuracy[0]) - 5, 10, 10]);
  const meets = (box) => taken.some((o) => box[0] < o[0] + o[2] && o[0] < box[0] + box[2] && box[1] < o[1] + o[3] && o[1] < box[1] + box[3]);
  return points.map((point) => {
    const text = point.name.length > 34 ? `${point.name.slice(0, 33)}…` : point.name, wide = 6.1 * text.length;
    for (const [dx, dy] of [[8, -8], [8, 15], [-8 - wide, -8], [-8 - wide, 15], [8, -22], [8, 30], [-8 - wide, -22], [-8 - wide, 30]]) {
      const left = x(point.length[0]) + dx, line = y(point.accuracy[0]) + dy, box = [left, line - 11, wide, 14];
      if (left < LEFT || left + wide > width || line < 12 || meets(box)) continue;
      taken.push(box);
      return svg("text", { x: left, y: line, class: "name" }, text);
    }
    return null;
  });
}

// seconds a step by phase, as stacked bars
function stackedBars(times) {
  const frame = el("div", { class: "chart", role: "img", "aria-label": "Seconds per step by phase" });
  onResize(frame, () => frame.replaceChildren(drawBars(times, frame.clientWidth)));
  return el("div", {}, frame, el("div", { class: "legend" }, times.phases.map((phase, i) =>
    el("span", {}, el("i", { class: `key ${colour(i)}` }), phase.name))));
}

function drawBars(times, width) {
  const most = Math.max(...times.bars.map((bar) => bar.seconds.reduce((a, b) => a + b, 0))) || 1;
  const wide = (width - LEFT - RIGHT) / times.bars.length, y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - v / (most * 1.04));
  const grid = ticks(0, most, 4).map((v) => [svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v), class: "grid" }),
    svg("text", { x: LEFT - 6, y: y(v) + 3.5, class: "tick end" }, `${number(v)} s`)]);
  const every = Math.ceil((times.bars.length * 55) / width);
  const bars = times.bars.map((bar, k) => {
    let from = 0;
    const steps = bar.first === bar.last ? `step ${bar.first}` : `steps ${bar.first} to ${bar.last}`;
    return svg("g", {}, bar.seconds.map((seconds, i) => {
      from += seconds;
      return svg("rect", { x: LEFT + k * wide, y: y(from), width: Math.max(0.6, wide - (wide > 4 ? 1 : 0)), height: Math.max(0, y(from - seconds) - y(from)), class: `area ${colour(i)}` },
        svg("title", {}, `${steps}: ${times.phases[i].name} ${number(seconds)} s`));
    }), k % every ? null : svg("text", { x: LEFT + (k + 0.5) * wide, y: HEIGHT - 8, class: "tick middle" }, bar.first));
  });
  return svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` }, grid, bars);
}
