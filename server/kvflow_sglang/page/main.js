// The page at /kvflow/: asks for a view each second, and draws it a piece a frame.

import { OptimumPanel, PoolPanel, onScheme } from "./charts.js";
import { Graph } from "./graph.js";
import { Lanes, neighbours } from "./lanes.js";
import { Source } from "./source.js";
import { Pager, Table, found, setText } from "./tables.js";
import { byName, count, duration, label, plural, scoped, share, steps, unscoped } from "./text.js";

const WORKFLOWS = 20;
const AGENTS = 300;
// Of the agents' table at a time: laying out a table takes longer the longer it is.
const ROWS = 50;
// More agents than that are drawn in lanes, unless somebody asks for the graph.
const MOST_IN_GRAPH = 40;

const at = (id) => document.getElementById(id);
const clock = () => new Date().toLocaleTimeString();

const chosen = { workflow: fromHash(), agent: null, offset: 0, agents_offset: 0, row: 0, kind: null };
let answer = null;
let server = null;
let tasks = [];
let isStale = false;
let frame = 0;

const pool = new PoolPanel();
const optimum = new OptimumPanel();
const graph = new Graph(at("graph"), chooseAgent);
const lanes = new Lanes(at("graph"), chooseAgent);

const workflows = new Table(
  at("workflows"),
  [
    { text: label },
    { text: (row) => (row.done ? "ended" : "running") },
    { text: (row) => count(row.known_agents), number: true },
    { text: (row) => count(row.sums.calls), number: true },
    { text: (row) => found(row.sums), number: true },
    { text: (row) => count(row.sums.lost_tokens), number: true },
    { text: (row) => count(row.sums.prefetched_tokens), number: true },
    { text: (row) => count(row.sums.late_tokens), number: true },
    { text: (row) => count(row.sums.wasted_tokens), number: true },
    { text: (row) => count(row.held.device), number: true },
    { text: (row) => count(row.held.host), number: true },
  ],
  { onChoose: chooseWorkflow },
);
const part = (name) => ({ text: (row) => (row.prefix === null ? "–" : count(row.prefix[name])), number: true });
const agents = new Table(
  at("agents"),
  [
    { text: (row) => row.agent },
    { text: (row) => steps(row.steps) },
    { text: (row) => duration(row.due_ms), number: true },
    { text: (row) => (row.chance === null ? "–" : `${row.chance}%`), number: true },
    { bar: (row) => row.prefix },
    part("device"),
    part("host"),
    part("loading"),
    part("gone"),
    { text: (row) => count(row.calls), number: true },
    { text: (row) => found(row), number: true },
    { text: (row) => count(row.host_tokens), number: true },
    { text: (row) => count(row.lost_tokens), number: true },
    { text: (row) => count(row.prefetched_tokens), number: true },
    { text: (row) => count(row.late_tokens), number: true },
    { text: (row) => count(row.wasted_tokens), number: true },
    { text: (row) => share(row.forecast_right, row.forecast_right + row.forecast_wrong), number: true },
  ],
  { onChoose: chooseAgent },
);
const counters = new Table(at("counters").querySelector("table"), [
  { text: ([name]) => name.replaceAll("_", " ") },
  { text: ([, value]) => count(value), number: true },
]);
const workflowsPager = new Pager(at("workflows-pager"), "workflows", {
  offset: () => chosen.offset,
  onPage: (offset) => turn({ offset }),
});
const rowsPager = new Pager(at("rows-pager"), "rows", {
  offset: () => chosen.row,
  onPage: (row) => {
    chosen.row = row;
    draw();
  },
});
const agentsPager = new Pager(at("agents-pager"), "agents", {
  offset: () => chosen.agents_offset,
  onPage: (offset) => turn({ agents_offset: offset, row: 0 }),
});

const source = new Source({ question, onView, onState });

function question() {
  const query = new URLSearchParams({
    offset: chosen.offset,
    limit: WORKFLOWS,
    agents_offset: chosen.agents_offset,
    agents_limit: AGENTS,
  });
  if (chosen.workflow !== null) {
    const { tenant, workflow } = unscoped(chosen.workflow);
    query.set("workflow", workflow);
    if (tenant !== null) query.set("tenant", tenant);
  }
  return { address: `view?${query}`, workflow: chosen.workflow };
}

function onView(received, asked) {
  const now_s = Date.now() / 1000;
  if (server !== null && received.server !== server) {
    notify(`The server was restarted; its counts began anew. Seen at ${clock()}.`);
    for (const panel of [pool, optimum]) panel.gap(now_s);
  }
  server = received.server;
  answer = { ...received, asked };
  const { view } = answer;
  if (chosen.workflow === null && view.workflows.workflows.length) {
    chosen.workflow = scoped(view.workflows.workflows[0]);
    source.ask();
  }
  pool.push(now_s, view.pool);
  optimum.push(now_s, view.optimum);
  at("main").hidden = false;
  at("key").hidden = true;
  setText(at("updated"), `Updated ${clock()}`);
  const remembered = `${count(view.counters.agents)} prefixes remembered`;
  const known = plural(view.workflows.total, "workflow");
  setText(at("summary"), `Version ${answer.version}, ${known} known, ${remembered}.`);
  draw();
}

function onState(state) {
  const gap = () => [pool, optimum].forEach((panel) => panel.gap(Date.now() / 1000));
  if (state === "lost") {
    notify(`No answer from the server since ${clock()}. Trying again.`);
    if (server !== null) gap();
  } else if (state === "live") {
    const was = at("notice").textContent;
    if (was.startsWith("No answer")) notify(`The server answers again since ${clock()}.`);
    else if (was.startsWith("The API key")) notify("");
  } else if (state === "locked") {
    notify(source.key === null ? "The API key is needed." : "The API key was not accepted.");
    at("key").hidden = false;
    at("key-input").focus();
  }
}

function notify(text) {
  setText(at("notice"), text);
}

// Everything that is to be drawn, a piece for each frame. What comes while that is under way is
// drawn after it, the newest alone: a slow machine shows fewer views, but all of each.
function draw() {
  isStale = true;
  frame ||= requestAnimationFrame(drawPiece);
}

function drawPiece() {
  frame = 0;
  if (!tasks.length && isStale && answer !== null) {
    isStale = false;
    tasks = [drawWorkflow(), drawWorkflows(), pool.render(), optimum.render(), drawCounters()];
  }
  if (!tasks.length) return;
  if (tasks[0].next().done) tasks.shift();
  if (tasks.length || isStale) frame = requestAnimationFrame(drawPiece);
}

function* drawWorkflows() {
  const { total, workflows: rows } = answer.view.workflows;
  workflowsPager.render(chosen.offset, WORKFLOWS, rows.length, total);
  yield* workflows.render(rows, { name: scoped, selected: chosen.workflow });
}

function* drawCounters() {
  if (!at("counters").open) return;
  yield* counters.render(Object.entries(answer.view.counters), { name: ([name]) => name });
}

function* drawWorkflow() {
  const { workflow } = answer.view;
  const title = chosen.workflow === null ? "No workflow yet" : `Workflow ${label(unscoped(chosen.workflow))}`;
  if (workflow === null || answer.asked.workflow !== chosen.workflow) {
    const isGone = workflow === null && chosen.workflow !== null;
    setText(at("workflow-title"), title);
    setText(at("workflow-note"), isGone ? "The server does not know this workflow, or has forgotten it." : "");
    if (isGone) {
      lanes.clear();
      graph.placed = graph.shape = "";
      yield* agents.render([], { name: (row) => row.agent });
    }
    return;
  }
  setText(at("workflow-title"), `${title}${workflow.done ? ", ended" : ""}`);
  at("agents-pager").hidden = workflow.total <= AGENTS;
  agentsPager.render(chosen.agents_offset, AGENTS, workflow.agents.length, workflow.total);
  const kind = chosen.kind ?? (workflow.agents.length > MOST_IN_GRAPH || !workflow.edges.length ? "lanes" : "graph");
  const button = document.querySelector(`input[name="kind"][value="${kind}"]`);
  if (!button.checked) button.checked = true;
  setText(at("workflow-note"), noteOn(workflow, kind));
  yield;
  if (kind === "lanes") {
    graph.placed = graph.shape = "";
    yield* lanes.render(workflow, chosen.agent);
  } else {
    yield* graph.render(workflow, chosen.agent);
  }
  yield;
  const rows = inOrder(workflow.agents);
  if (chosen.row >= rows.length) chosen.row = 0;
  const shown = rows.slice(chosen.row, chosen.row + ROWS);
  rowsPager.render(chosen.row, ROWS, shown.length, rows.length);
  yield* agents.render(shown, { name: (row) => row.agent, selected: chosen.agent });
}

function noteOn({ agents: rows, edges }, kind) {
  const now = rows.filter((row) => row.steps === 0).length;
  const coming = rows.filter((row) => row.steps !== null).length - now;
  const said = `${plural(rows.length, "agent")}: ${count(now)} at work, ${count(coming)} expected.`;
  if (chosen.agent !== null && rows.some((row) => row.agent === chosen.agent)) {
    const { before, after } = neighbours(edges, chosen.agent);
    return `${said} ${chosen.agent}: called after ${names(before)}; followed by ${names(after)}.`;
  }
  const drawn = kind === "graph" ? "Arrows: who has called after whom." : "Choose an agent to see whom it follows.";
  return `${said} ${drawn}`;
}

function names(set) {
  const [first, second, third, ...rest] = set;
  const shown = [first, second, third].filter((each) => each !== undefined).join(", ");
  return shown ? shown + (rest.length ? ` and ${rest.length} more` : "") : "nobody";
}

function inOrder(rows) {
  const order = at("agents-order").value;
  const key = {
    agent: () => 0,
    steps: (row) => row.steps ?? Infinity,
    gone: (row) => -(row.prefix?.gone ?? 0),
    lost_tokens: (row) => -row.lost_tokens,
    wasted_tokens: (row) => -row.wasted_tokens,
    calls: (row) => -row.calls,
  }[order];
  return [...rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a !== b) return a < b ? -1 : 1;
    return byName(one, other);
  });
}

function chooseWorkflow(name) {
  chosen.workflow = name;
  chosen.agent = null;
  chosen.agents_offset = chosen.row = 0;
  chosen.kind = null;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  source.ask();
  draw();
}

function chooseAgent(name) {
  chosen.agent = chosen.agent === name ? null : name;
  draw();
}

function turn(page) {
  Object.assign(chosen, page);
  source.ask();
}

function fromHash() {
  try {
    return location.hash && location.hash !== "#workflow" ? decodeURIComponent(location.hash.slice(1)) : null;
  } catch {
    return null;
  }
}

at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  source.key = at("key-input").value;
  at("key-input").value = "";
});
at("pause").addEventListener("click", () => {
  const isPaused = !source.paused;
  if (isPaused) source.pause();
  else source.resume();
  at("pause").setAttribute("aria-pressed", String(isPaused));
  setText(at("pause"), isPaused ? "Go on" : "Pause");
});
for (const id of ["pool-tier", "pool-by", "agents-order", "counters"]) {
  at(id).addEventListener(id === "counters" ? "toggle" : "change", draw);
}
at("graph-kind").addEventListener("change", (event) => {
  chosen.kind = event.target.value;
  draw();
});
document.addEventListener("visibilitychange", () => source.ask());
onScheme(draw);
source.ask();
