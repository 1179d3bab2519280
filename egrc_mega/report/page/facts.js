// Time and memory, faults and recoveries, configuration, environment.

function timesSection(times) {
  if (!times.phases.length) return [el("p", {}, "No step has been timed yet.")];
  const rest = Math.max(0, times.wall_s - times.in_steps_s), whole = times.wall_s || times.in_steps_s;
  const rows = times.phases.map((phase) => [phase.name, duration(phase.seconds), percent(phase.seconds / times.in_steps_s)]);
  const spans = times.spans.map((span) => [span.beside ? `${span.name} (beside)` : span.name, number(span.count), duration(span.own_s), duration(span.longest_s), span.errors ? String(span.errors) : "-"]);
  return [
    el("p", {}, small(`${duration(times.in_steps_s)} of ${duration(whole)} by the clock were spent in steps; ${duration(rest)} between them: start, evaluations, checkpoints, pauses.`)),
    el("div", { class: "grid" },
      card("Seconds per step", times.stride > 1 ? `each bar is the mean of ${times.stride} steps` : "one bar a step", stackedBars(times)),
      card("Phases", "of the main thread, each without what is within it", table(["phase", "time", "of all"], rows, "Phases")),
      card("Spans", "everything that was timed on the first rank, by name; own time", table(["span", "times", "own", "longest", "errors"], spans, "Spans")),
      times.memory.length ? card("Memory", "highest of the run; resident on a CPU, allocated on a GPU",
        table(["phase", "peak"], times.memory.map((m) => [m.name, `${number(m.peak_gib)} GiB`]), "Memory")) : null),
  ];
}

function incidentsSection(incidents) {
  const kinds = Object.entries(incidents.num);
  if (!kinds.length) return [el("p", {}, "None: nothing was lost, restarted, resumed or warned of.")];
  const rows = incidents.rows.map((one) => [one.kind, one.step === null || one.step === undefined ? "-" : String(one.step), clock(one.time), el("span", { class: "wrap" }, one.text)]);
  const total = kinds.reduce((sum, [, count]) => sum + count, 0);
  return [el("p", {}, small(kinds.map(([kind, count]) => `${kind}: ${count}`).join(", ") + (total > rows.length ? `; the last ${rows.length} are listed` : ""))),
    el("div", { class: "card names" }, table(["kind", "step", "when", "what"], rows, "Faults and recoveries"))];
}

function clock(seconds) {
  return seconds ? new Date(1000 * seconds).toISOString().replace("T", " ").slice(0, 19) : "-";
}

function settingsSection(settings) {
  if (!settings.rows.length) return [el("p", {}, "This folder has no configuration.")];
  const search = el("input", { type: "search", id: "settings-search", placeholder: "name or value", input: draw });
  const changed = el("input", { type: "checkbox", id: "changed", checked: settings.has_origins, change: draw });
  const holder = el("div", { class: "card names" });
  function draw() {
    const words = search.value.trim().toLowerCase();
    const rows = settings.rows.filter(([name, value, origin]) =>
      (!changed.checked || origin !== "default") && (!words || `${name} ${value}`.toLowerCase().includes(words)));
    holder.replaceChildren(table(["name", "value", "from"], rows.map(([name, value, origin]) => [el("code", {}, name), el("code", { class: "wrap" }, value), origin || "-"]), "Configuration"),
      small(`${rows.length} of ${settings.rows.length} values`));
  }
  draw();
  return [el("div", { class: "controls" }, el("label", {}, "search ", search), settings.has_origins ? el("label", {}, changed, " only what is no default")
    : small("Where the values come from was not recorded by the version that ran this.")), holder];
}

function environmentSection(rows) {
  if (!rows.length) return [el("p", {}, "This folder does not say what it ran on.")];
  return [el("div", { class: "card names" }, table(["name", "value"], rows.map(([name, value]) => [name, el("code", { class: "wrap" }, value)]), "Environment"))];
}
