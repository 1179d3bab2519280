// The live page: it asks its own server what has changed, and puts only that into the page.

const ANSWER_MS = 60000;
const FOCUSABLE = "a, button, input, select, [tabindex]";
const NO_TEXTS = {
  rollouts: { groups: [], num_steps: 0, num_stored_steps: 0, num_rollouts: 0, num_in_steps: 0, torn: [], has_pieces: true },
  responses: { problems: [], num_problems: 0, num_responses: 0 },
  diagnosis: null,
};

function follow(main) {
  const run = { ...NO_TEXTS }, state = { seen: "", drawn: [], isPaused: false, isGone: false, at: null };
  const said = el("b", { role: "status" }, "asking …"), more = el("span", { class: "soft" });
  const pause = el("button", { type: "button", "aria-pressed": "false", click: turn }, "pause");
  const bar = el("div", { class: "bar" }, said, more, pause);
  main.replaceChildren(el("h1", {}, DATA.name), bar);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) again(0); });
  let timer = null;

  function turn() {
    state.isPaused = !state.isPaused;
    pause.textContent = state.isPaused ? "go on" : "pause";
    pause.setAttribute("aria-pressed", String(state.isPaused));
    if (state.isPaused) say("paused"); else again(0);
  }

  function say(text) {
    if (said.textContent !== text) said.textContent = text;
  }

  function again(after) {
    clearTimeout(timer);
    timer = setTimeout(ask, after);
  }

  async function ask() {
    if (state.isGone || state.isPaused || document.hidden || state.isAsking) return;
    state.isAsking = true;
    const reply = await answered();
    state.isAsking = false;
    if (!reply) say(`egrc watch does not answer${state.at ? `; this is from ${state.at}` : ""}`);
    else if (!state.isPaused) take(reply);
    again(DATA.poll_ms);
  }

  async function answered() {
    try {
      const answer = await fetch(`state?seen=${state.seen}`, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  function take(reply) {
    state.seen = reply.seen; state.isGone = reply.is_gone; state.at = new Date().toLocaleTimeString();
    Object.assign(run, reply.light, reply.texts);
    if (reply.curves) run.curves = joined(state.curves, reply.curves);
    state.curves = run.curves;
    if (run.state && (reply.light || reply.texts)) draw();
    say(stateText(run, reply));
    more.textContent = factsOf(run, reply);
  }

  function draw() {
    const parts = partsOf(run), isFirst = !state.drawn.length;
    document.title = run.progress.total ? `${run.progress.step}/${run.progress.total} · ${run.name}` : run.name;
    if (parts.map((part) => part.id).join() !== state.drawn.map((one) => one.part.id).join()) {
      state.drawn = show(main, [header(run, true), bar], parts);
      state.drawn.forEach((one) => { one.data = JSON.stringify(one.part.data); });
    } else {
      document.getElementById("top").replaceWith(header(run, true));
      parts.forEach((part, i) => renewed(state.drawn[i], part));
    }
    if (isFirst) markDrawn();
  }

  ask();
}

function stateText(run, reply) {
  if (reply.is_gone) return "The folder is no longer there";
  if (reply.trouble) return `cannot be read just now: ${reply.trouble}`;
  if (!run.state || run.state === "no run") return "up to date";
  if (reply.is_running) return "running";
  return run.state === "ended" ? "ended" : "not running, and not at its end";
}

function factsOf(run, reply) {
  const parts = [];
  if (run.progress && run.progress.total) parts.push(`step ${run.progress.step} of ${run.progress.total}`);
  if (reply.is_running && reply.idle_s !== null) parts.push(`last event ${duration(Math.round(reply.idle_s))} ago`);
  return parts.join(" · ");
}

// the rows that came stand behind those that are here
function joined(here, came) {
  if (!here || !came.begin) return came;
  const behind = (old, rows) => [...Array.from({ length: came.begin }, (_, i) => old?.[i] ?? null), ...rows];
  const columns = Object.entries(came.columns).map(([name, rows]) => [name, behind(here.columns[name], rows)]);
  return { ...came, begin: 0, steps: behind(here.steps, came.steps), columns: Object.fromEntries(columns) };
}

// by the section's own way, or made anew where what it is made of has changed
function renewed(drawn, part) {
  const data = JSON.stringify(part.data);
  if (data === drawn.data) return drawn.renew?.();
  const fresh = section(part);
  keepingPlace(drawn.node, () => drawn.node.replaceChildren(...fresh.node.childNodes));
  return Object.assign(drawn, { data, part, renew: fresh.renew });
}

// what the reader has scrolled, and where the keyboard is, stays when children are replaced
function keepingPlace(node, replace) {
  const all = (selector) => [...node.querySelectorAll(selector)];
  const scrolled = all(".scroll, .reply").map((box) => [box.scrollLeft, box.scrollTop]), focus = all(FOCUSABLE).indexOf(document.activeElement);
  replace();
  all(".scroll, .reply").forEach((box, i) => scrolled[i] && box.scrollTo(...scrolled[i]));
  if (focus >= 0) all(FOCUSABLE)[focus]?.focus({ preventScroll: true });
}
