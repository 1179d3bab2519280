// A response as text, coloured by token where that was recorded, and the diagnosis.

const HEAT_MAX = 200; // hundredths of a nat at which the colour is full

function heatClass(value) {
  return value <= 0 ? "" : `h${Math.min(9, Math.ceil((9 * value) / HEAT_MAX))}`;
}

// neighbours of one colour are one element: a page of long responses stays light
function heated(text, heat) {
  const parts = [];
  let at = 0, begin = 0, last = null, sum = [];
  const flush = (end) => {
    if (end > begin) parts.push(last ? el("span", { class: last, title: sum.join(", ") }, text.slice(begin, end)) : text.slice(begin, end));
    begin = end; sum = [];
  };
  heat.sizes.forEach((size, i) => {
    const own = heatClass(heat.values[i]);
    if (own !== last) { flush(at); last = own; }
    if (own && sum.length < 8) sum.push(`${(heat.values[i] / 100).toFixed(2)} nats`);
    at += size;
  });
  flush(at);
  begin = at; last = null;
  flush(text.length);
  return parts;
}

function replyText(sample, colours) {
  const isHot = colours && sample.heat;
  return el("div", { class: "reply", tabindex: 0, dir: "auto" }, isHot ? heated(sample.text, sample.heat) : sample.text);
}

function heatKey(kind) {
  return el("span", { class: "heat-key" }, kind === "entropy" ? "token entropy, 0 to 2 nats " : "surprise, −log p of the sampled token, 0 to 2 nats ",
    [1, 2, 3, 4, 5, 6, 7, 8, 9].map((i) => el("span", { class: `h${i}` }, "\u00a0\u00a0")));
}

function diagnosisSection(found) {
  if (!found) return [el("p", {}, "There are no texts to look at.")];
  const names = found.sides.map((side) => side.name);
  const note = found.sides.map((side) => `${side.name}: ${counted(side.num, "response")}`).join("; ");
  const show = (row) => row.values.map((value) => (row.is_share ? percent(value) : number(value)));
  return [
    el("p", {}, small(`From texts that were kept, a bounded sample: ${note}. egrc diagnose looks at all, and asks the model (docs/diagnosis.md).`)),
    el("div", { class: "grid" },
      card("What a response is made of", "mean of a response", table(["", ...names], found.figures.map((row) => [row.label, ...show(row)]), "Diagnosis")),
      found.connectors.length ? card("Connectors", "of a response", table(["word", "kind", ...names], found.connectors.map((row) => [row.name, row.kind, ...row.values.map(number)]), "Connectors")) : null,
      found.loops.length ? card("Loops", "what repeats itself", table(["unit", "times"], found.loops.map((loop) => [loop.unit, number(loop.repeats)]), "Loops")) : null,
      entropyCard(found.entropy)),
  ];
}

function entropyCard(rows) {
  if (!rows.length) return card("Token entropy", "not recorded by this run: the trainer keeps entropies where a method measures them");
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.classes)))];
  const body = [
    ["all tokens", ...rows.map((row) => number(row.mean))],
    ["held by the top fifth", ...rows.map((row) => percent(row.share_of_top_fifth))],
    ...names.map((name) => [name, ...rows.map((row) => (row.classes[name] ? number(row.classes[name][0]) : "-"))]),
  ];
  const last = rows[rows.length - 1];
  return card("Token entropy", "mean, in nats, as the trainer recorded it", table(["tokens", ...rows.map((row) => `step ${row.step}`)], body, "Token entropy"),
    last.words.length ? el("p", {}, small(`Highest at step ${last.step}: `), last.words.map(([word, mean]) => [el("code", {}, word), small(` ${number(mean)}  `)])) : null);
}
