// The rollout browser: search and filters over what the page holds, and two responses to one prompt side by side.

const PER_PAGE = 20;
const ALL = { from: "everywhere", verdict: "any", reason: "any", "before → after": "any" };

function itemsOf(run) {
  const items = [];
  for (const group of run.rollouts.groups) {
    for (const sample of group.samples) {
      items.push({ kind: "rollouts", where: `step ${group.step} · ${group.stage}`, place: group.stage, step: group.step, prompt: group.prompt, answer: group.answer, key: group.key, sample });
    }
  }
  for (const problem of run.responses.problems) {
    for (const sample of problem.samples) {
      items.push({ kind: "evaluations", where: `${sample.where} · T ${sample.temperature}`, place: sample.where, step: sample.step || 0, temperature: sample.temperature, prompt: problem.prompt, answer: problem.answer, key: "", sample });
    }
  }
  return items;
}

// right → wrong and so on: the first and the last verdict of the evaluations of a prompt at one temperature
function changesOf(items) {
  const ends = new Map(), changes = new Map();
  for (const item of items) {
    if (item.kind !== "evaluations") continue;
    const key = `${item.temperature}\n${item.prompt}`, own = ends.get(key) || [item, item];
    ends.set(key, [item.step < own[0].step ? item : own[0], item.step >= own[1].step ? item : own[1]]);
  }
  for (const [first, last] of ends.values()) {
    const change = `${first.sample.grade} → ${last.sample.grade}`;
    if (first !== last) changes.set(first.prompt, (changes.get(first.prompt) || new Set()).add(change));
  }
  return changes;
}

function browserSection(run, keep) {
  let items = itemsOf(run), changes = changesOf(items), from = run.rollouts;
  if (!items.length) return [el("p", {}, "No rollouts and no responses are kept in this folder.")];
  const state = { page: 0, open: null, colours: true };
  const list = el("ul", { class: "rollouts" }), said = el("p", { class: "soft", role: "status" }), detail = el("div", { class: "detail", "aria-live": "polite" });
  const search = el("input", { type: "search", id: "search", placeholder: "text, prompt or answer", input: again });
  const selects = Object.fromEntries(Object.keys(ALL).map((name) => [name, el("select", { change: again })]));
  const labels = Object.entries(selects).map(([name, select]) => el("label", {}, `${name} `, select));
  const note = el("p");
  const pager = el("div", { class: "controls" });

  function take() {
    const values = valuesOf(items, changes);
    Object.entries(selects).forEach(([name, select], i) => {
      fillSelect(select, ALL[name], values[name]);
      labels[i].hidden = !values[name].length;
    });
    note.replaceChildren(small(samplingText(run)));
    show();
  }

  function again() { state.page = 0; show(); }

  function show() {
    const found = filtered(items, changes, search.value.trim().toLowerCase(), selects);
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    state.page = Math.min(state.page, pages - 1);
    const shown = found.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE);
    list.replaceChildren(...shown.map((item) => rowOf(item, () => chosen(item), isSame(item, state.open))));
    said.replaceChildren(`${counted(found.length, "response")} of ${items.length.toLocaleString("en")} on this page`);
    const turn = (by) => { state.page += by; show(); list.querySelector("button")?.focus(); };
    pager.replaceChildren(
      el("button", { type: "button", disabled: state.page === 0, click: () => turn(-1) }, "← earlier"),
      el("span", { class: "soft" }, `${state.page + 1} of ${pages}`),
      el("button", { type: "button", disabled: state.page >= pages - 1, click: () => turn(1) }, "later →"));
  }

  // where the list stands above what it opens, on a phone, the reader is taken there
  function chosen(item) {
    open(item);
    if (getComputedStyle(detail).position === "static") detail.scrollIntoView();
  }

  function open(item) {
    state.open = item;
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
    list.querySelectorAll("button")[[...list.children].findIndex((row) => row.item === item)]?.setAttribute("aria-pressed", "true");
    const same = items.filter((other) => other.prompt === item.prompt).sort((a, b) => a.step - b.step || (a.kind < b.kind ? -1 : 1));
    const rivals = same.filter((other) => other !== item);
    const left = same[0] !== item ? same[0] : item, right = left === item ? rivals[rivals.length - 1] || null : item;
    detail.replaceChildren(...detailOf(item, same, left, right, state));
  }

  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], buttons = [...list.querySelectorAll("button")];
    if (!by) return;
    event.preventDefault();
    buttons[Math.min(Math.max(buttons.indexOf(document.activeElement) + by, 0), buttons.length - 1)]?.focus();
  });
  take();
  keep(() => {
    if (run.rollouts === from) return;
    items = itemsOf(run); changes = changesOf(items); from = run.rollouts;
    keepingPlace(list, take);
  });
  return [note, el("div", { class: "controls" }, el("label", {}, "search ", search), labels),
    said, el("div", { class: "browser" }, el("div", {}, list, pager), detail)];
}

function samplingText(run) {
  const from = run.rollouts, parts = [];
  if (from.num_rollouts) {
    parts.push(`Shown are ${from.num_rollouts.toLocaleString("en")} of the ${from.num_in_steps.toLocaleString("en")} rollouts of ${counted(from.num_steps, "step")}, ` +
      `of ${counted(from.num_stored_steps, "step")} whose rollouts are stored: whole groups, spread evenly, prompts that come again first. egrc rollouts shows any step.`);
  }
  if (run.responses.num_responses) {
    parts.push(`Responses of ${run.responses.problems.length} of ${counted(run.responses.num_problems, "problem")} that the evaluations kept.`);
  }
  if (from.torn.length) parts.push(`Cannot be read: ${from.torn.join(", ")}.`);
  if (from.num_rollouts && !from.has_pieces) parts.push("No tokenizer is in this folder, so tokens cannot be coloured.");
  return parts.join(" ");
}

function isSame(item, other) {
  return Boolean(other) && item.where === other.where && item.prompt === other.prompt && item.sample.text === other.sample.text;
}

function valuesOf(items, changes) {
  const distinct = (values) => [...new Set(values.filter(Boolean))];
  return {
    from: distinct(items.flatMap((item) => [item.kind, item.place])),
    verdict: distinct(items.map((item) => item.sample.grade)).sort(),
    reason: distinct(items.map((item) => item.sample.reason)).sort(),
    "before → after": distinct([...changes.values()].flatMap((own) => [...own])).sort(),
  };
}

function filtered(items, changes, words, selects) {
  const { from, verdict, reason } = selects, change = selects["before → after"];
  return items.filter((item) =>
    (!from.value || item.kind === from.value || item.place === from.value) &&
    (!verdict.value || item.sample.grade === verdict.value) &&
    (!reason.value || item.sample.reason === reason.value) &&
    (!change.value || (changes.get(item.prompt)?.has(change.value) && item.kind === "evaluations")) &&
    (!words || item.sample.text.toLowerCase().includes(words) || item.prompt.toLowerCase().includes(words) || item.answer.toLowerCase().includes(words)));
}

function badge(sample) {
  return el("span", { class: `badge ${["right", "wrong", "ungraded"].includes(sample.grade) ? sample.grade : ""}` }, sample.grade);
}

function rowOf(item, click, isOpen) {
  const row = el("li", {}, el("button", { type: "button", click, "aria-pressed": isOpen ? "true" : "false" },
    badge(item.sample), el("span", { class: "soft" }, ` ${item.where} · ${counted(item.sample.tokens, "token")}${item.sample.cut ? ", cut" : ""}`),
    el("span", { class: "line" }, item.prompt.slice(0, 120)), el("span", { class: "line soft" }, item.sample.text.slice(0, 120))));
  row.item = item;
  return row;
}

function factsText(item) {
  const s = item.sample, parts = [s.reason, `${counted(s.tokens, "token")}${s.cut ? " (cut)" : ""}`];
  if (s.reward !== undefined) {
    const terms = Object.entries(s.terms).map(([name, value]) => `${name} ${number(value)}`).join(", ");
    parts.push(s.ill ? "ill-formed" : "", s.tag, `reward ${number(s.reward)}${terms ? ` (${terms})` : ""}`);
    const ends = s.advantage ? [...new Set(s.advantage.map(number))].join(" to ") : "-";
    parts.push(s.kept ? `advantage ${ends}` : "not trained on", `weights ${s.version}`);
  }
  return parts.filter(Boolean).join(" · ");
}

function detailOf(item, same, left, right, state) {
  const sides = right ? [left, right] : [left];
  const panes = sides.map((_, i) => el("div", { class: "pane" }));
  const heats = () => [...new Set(sides.map((side) => side.sample.heat?.kind).filter(Boolean))];
  const keys = el("div", { class: "controls" });

  function draw() {
    panes.forEach((pane, i) => {
      const choice = el("select", { "aria-label": i ? "after" : "before", change: (event) => { sides[i] = same[event.target.value]; draw(); } },
        same.map((other, k) => el("option", { value: k, selected: other === sides[i] }, `${other.where} · ${other.sample.grade} · ${other.sample.tokens} tokens`)));
      pane.replaceChildren(el("div", { class: "choice" }, choice), el("div", {}, badge(sides[i].sample), small(` ${factsText(sides[i])}`)), replyText(sides[i].sample, state.colours));
    });
    const colours = el("input", { type: "checkbox", id: "heat", checked: state.colours, change: (event) => { state.colours = event.target.checked; draw(); } });
    keys.replaceChildren(...(heats().length ? [el("label", {}, colours, " colour tokens"), ...heats().map(heatKey)] : [small("No token of these can be coloured: nothing was recorded of them, or they are too long.")]));
  }

  draw();
  return [el("div", { class: "prompt" }, el("h3", {}, "Prompt"), el("div", { class: "reply short", dir: "auto", tabindex: 0 }, item.prompt),
    small(`answer: ${item.answer}${item.key ? ` · ${item.key}` : ""} · ${counted(same.length, "response")} to it on this page`)), keys,
    el("div", { class: sides.length > 1 ? "pair" : "" }, panes)];
}
