// The page of `mesokit web`. Text that came from the node is only ever set as text (textContent), and what a
// terminal would not print is spelt out, so a name is never markup and never turns its neighbours around.
"use strict";

const $ = id => document.getElementById(id);
const VIEWS = ["list", "picture", "events", "policy"];
const MOOD = {up: "good", down: "bad", broken: "bad", stale: "warn", unfinished: "warn", ok: "good", failed: "bad",
  flushed: "bad", state: "warn", detached: "soft", unknown: "warn", passive: "soft", differs: "warn", agrees: "good"};
const MOST_EVENTS = 500;

const PLAIN = /^[\x20-\x7e]*$/;
const shown = text => PLAIN.test(text) ? String(text) : String(text).replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, c => {
  const n = c.codePointAt(0);
  return n < 256 ? "\\x" + n.toString(16).padStart(2, "0") : n < 65536 ? "\\u" + n.toString(16).padStart(4, "0") : "\\U" + n.toString(16).padStart(8, "0");
});

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = shown(text);
  if (kind) made.className = kind;
  return made;
}

function within(tag, kind, ...children) {
  const made = element(tag, undefined, kind);
  made.append(...children);
  return made;
}

async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "");
  const answer = await fetch(path + (given.length ? "?" + new URLSearchParams(given) : ""));
  if (!answer.ok) throw new Error((await answer.json()).message);
  return answer;
}

function moment(seconds) {
  const at = new Date(seconds * 1000), two = n => String(n).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

// ---- the list

const rows = new Map(); // key -> {key, item, tr, link, words, cells}
let order = [];
const keyOf = item => [item.network, item.container_id, item.interface].join("\0");
const ports = item => item.ports.map(p => `${p.host_ip ? (p.host_ip.includes(":") ? `[${p.host_ip}]` : p.host_ip) + ":" : ""}${p.host_port}->${p.container_port}/${p.protocol}`);

const states = item => item.differs.length ? [item.state, "differs"] : [item.state];
const mood = item => item.state === "up" && item.differs.length ? MOOD.differs : MOOD[item.state] || "";

function fill(row, item) {
  row.item = item;
  const cells = [item.container_id, item.tasks.join(", "), item.network, item.interface,
    item.addresses.map(a => a.split("/")[0]).join(", "), ports(item).join(", "), states(item).join(", ")];
  row.words = [...cells, item.mac, item.host_interface, item.parent].join(" ").toLowerCase();
  cells.forEach((text, n) => {
    if (row.cells[n] === text) return;
    (n ? row.tr.cells[n] : row.link).textContent = shown(text);
  });
  row.cells = cells;
  row.tr.cells[6].className = mood(item) || "soft";
  row.tr.cells[6].title = item.differs.map(shown).join("; ");
}

// A row is laid out when it comes into view (web.css), so it is no table's to the browser: roles say that it is one.
const PATTERN = document.createElement("tr");
PATTERN.setAttribute("role", "row");
for (const name of ["container", "task", "network", "interface", "addresses", "ports", "state"]) {
  const cell = PATTERN.insertCell();
  cell.dataset.name = name;
  cell.setAttribute("role", "cell");
}
PATTERN.cells[0].append(document.createElement("a"));
PATTERN.cells[0].firstChild.tabIndex = -1;

function makeRow(item) {
  const tr = PATTERN.cloneNode(true), link = tr.firstChild.firstChild;
  link.href = "#/inspect/" + encodeURIComponent(item.container_id);
  const row = {key: keyOf(item), item, tr, link, words: "", cells: []};
  fill(row, item);
  return row;
}

function all(listing) {
  $("host").textContent = shown(listing.node);
  document.title = `${shown(listing.node)} – mesokit`;
  rows.clear();
  const made = document.createDocumentFragment();
  for (const item of listing.items) {
    const row = makeRow(item);
    rows.set(row.key, row);
    made.append(row.tr);
  }
  order = [...rows.keys()];
  $("rows").replaceChildren(made);
  $("hidden").replaceChildren(...listing.hidden.map(text => element("li", text)));
  $("hidden").hidden = !listing.hidden.length;
  listed();
}

function change({items, gone}) {
  for (const item of items) {
    const key = keyOf(item), there = rows.get(key);
    if (there) { fill(there, item); continue; }
    const row = makeRow(item);
    row.tr.classList.add("new");
    let low = 0, high = order.length;
    while (low < high) { const middle = (low + high) >> 1; if (order[middle] < key) low = middle + 1; else high = middle; }
    $("rows").insertBefore(row.tr, low < order.length ? rows.get(order[low]).tr : null);
    order.splice(low, 0, key);
    rows.set(key, row);
  }
  for (const parts of gone) {
    const key = parts.join("\0"), row = rows.get(key);
    if (!row) continue;
    if (row.link === document.activeElement) step(row, 1) || step(row, -1);
    row.tr.remove();
    rows.delete(key);
    order.splice(order.indexOf(key), 1);
  }
  listed();
  if (!$("picture").hidden) drawSoon();
  const open = route().inspect;
  if (open === undefined) return;
  if (items.some(item => item.container_id === open)) inspect(open);
  else if (gone.some(parts => parts[1] === open)) { asked++; $("about").prepend(element("p", "It is detached. This is how it was.", "warn")); }
}

function options(select, values) {
  const had = [...select.options].slice(1).map(o => o.value), want = [...new Set(values)].sort();
  if (had.join("\0") === want.join("\0")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...want.map(value => { const o = element("option", value); o.value = value; return o; }));
  select.value = want.includes(chosen) ? chosen : "";
}

function listed() {
  const every = [...rows.values()];
  for (const id of ["network", "drawn"]) options($(id), every.map(row => row.item.network));
  options($("state"), every.flatMap(row => states(row.item)));
  filter();
}

function filter() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean), network = $("network").value, state = $("state").value;
  let count = 0;
  for (const row of rows.values()) {
    const fits = (!network || row.item.network === network) && (!state || states(row.item).includes(state)) && words.every(word => row.words.includes(word));
    if (row.tr.hidden === fits) row.tr.hidden = !fits;
    count += fits;
  }
  $("count").textContent = `${count === rows.size ? "" : `${count} of `}${rows.size} attachment${rows.size === 1 ? "" : "s"}`;
  $("table").hidden = !count;
  $("nothing").hidden = Boolean(count);
  $("nothing").textContent = rows.size ? "Nothing here is like that." : "Nothing is attached here.";
  tabbable(order.map(key => rows.get(key)).find(row => row.link.tabIndex === 0 && !row.tr.hidden) || visible(0, 1));
}

function visible(from, way) {
  for (let n = from; n >= 0 && n < order.length; n += way) { const row = rows.get(order[n]); if (!row.tr.hidden) return row; }
}

// One link of the list is in the tab order; arrows move to the others.
let current = null;
function tabbable(row) {
  if (current) current.link.tabIndex = -1;
  current = row || null;
  if (row) row.link.tabIndex = 0;
}

function step(row, way) {
  const next = visible(order.indexOf(row.key) + way, way);
  if (next) { tabbable(next); next.link.focus(); }
  return next;
}

$("rows").addEventListener("keydown", event => {
  const row = [...rows.values()].find(each => each.link === document.activeElement);
  if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
  const ends = {Home: visible(0, 1), End: visible(order.length - 1, -1)};
  if (event.key === "ArrowDown") step(row, 1);
  else if (event.key === "ArrowUp") step(row, -1) || $("words").focus();
  else if (event.key in ends) { tabbable(ends[event.key]); ends[event.key].link.focus(); }
  else return;
  event.preventDefault();
});
$("rows").addEventListener("focusin", event => tabbable([...rows.values()].find(row => row.link === event.target)));
$("rows").addEventListener("click", event => {
  const tr = event.target.closest("tr");
  if (tr && event.target.tagName !== "A" && !getSelection().toString()) tr.querySelector("a").click();
});
$("filter").addEventListener("input", filter);
$("filter").addEventListener("submit", event => { event.preventDefault(); visible(0, 1)?.link.focus(); });
$("words").addEventListener("keydown", event => {
  if (event.key === "ArrowDown") { event.preventDefault(); visible(0, 1)?.link.focus(); }
  if (event.key === "Escape" && $("words").value) { $("words").value = ""; filter(); }
});
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || $("inspect").open || /INPUT|SELECT/.test(event.target.tagName)) return;
  event.preventDefault();
  location.hash = "#/list";
  show("list");
  $("words").focus();
});

// ---- the picture: the SVG of `mesokit graph`, made anew of the elements that it may have

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = {svg: ["width", "height", "role"], g: ["class", "data-container"], rect: ["x", "y", "width", "height", "rx"], path: ["d"], text: ["x", "y"], title: [], style: []};

function copied(node) {
  const made = document.createElementNS(SVG, node.localName);
  for (const name of DRAWN[node.localName]) if (node.hasAttribute(name)) made.setAttribute(name, node.getAttribute(name));
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) made.append(child.data);
    else if (child.namespaceURI === SVG && child.localName in DRAWN) made.append(copied(child));
  }
  return made;
}

async function draw() {
  try {
    const text = await (await get("v1/graph", {network: $("drawn").value})).text();
    const made = copied(new DOMParser().parseFromString(text, "image/svg+xml").documentElement);
    made.removeAttribute("role"); // its parts are links, not one image
    for (const part of made.querySelectorAll("[data-container]")) {
      part.setAttribute("tabindex", "0");
      part.setAttribute("role", "link");
      part.setAttribute("aria-label", part.querySelector("title").textContent);
    }
    const focused = document.activeElement?.dataset?.container;
    $("drawing").replaceChildren(made);
    if (focused) for (const part of made.querySelectorAll("[data-container]")) if (part.dataset.container === focused) { part.focus(); break; }
  } catch (error) { $("drawing").replaceChildren(element("p", error.message, "bad")); }
  fits();
}

function fits() { $("wider").hidden = $("drawing").scrollWidth <= $("drawing").clientWidth; }
addEventListener("resize", fits);

let drawing = null;
function drawSoon() { if (drawing === null) drawing = setTimeout(() => { drawing = null; draw(); }, 300); }
function picked(event) {
  const part = event.target.closest("[data-container]");
  if (part) location.hash = "#/inspect/" + encodeURIComponent(part.dataset.container);
  return part;
}
$("drawing").addEventListener("click", picked);
$("drawing").addEventListener("keydown", event => { if (event.key === "Enter" && picked(event)) event.preventDefault(); });
$("drawn").addEventListener("change", draw);

// ---- events

const told = new Set(); // the past and what happens now may both tell one
function happened(event) {
  const key = JSON.stringify(event);
  if (told.has(key)) return;
  told.add(key);
  const name = event.kind === "flushed" ? element("span", event.container) : element("a", [event.container, event.interface].filter(Boolean).join(" "));
  if (name.tagName === "A") name.href = "#/inspect/" + encodeURIComponent(event.container);
  const tr = document.createElement("tr");
  for (const [heading, part] of [["time", moment(event.time)], ["what", element("span", event.kind, MOOD[event.kind])], ["container", name], ["network", shown(event.network)], ["about", shown(event.about)]]) {
    const cell = tr.insertCell();
    cell.dataset.name = heading;
    if (part !== "") cell.append(part);
  }
  $("log").prepend(tr);
  if ($("log").rows.length > MOST_EVENTS) $("log").lastChild.remove();
}

// ---- one container

function facts(pairs) {
  const list = element("dl", undefined, "facts");
  for (const [name, text] of pairs) if (text) list.append(element("dt", name), element("dd", text));
  return list;
}

function interfaceOf(item) {
  const carried = item.counters, flags = item.up && item.running ? "up" : item.up ? "up, no carrier" : "DOWN";
  return facts([[item.name, [item.kind || "device", flags, `mtu ${item.mtu}`, item.mac].filter(Boolean).join("  ")], ["addresses", item.addresses.join(", ")],
    ["carried", carried && `received ${carried.received_packets} packets, ${carried.received_bytes} bytes; sent ${carried.sent_packets} packets, ${carried.sent_bytes} bytes; dropped ${carried.received_dropped + carried.sent_dropped}, errors ${carried.received_errors + carried.sent_errors}`],
    ["neighbours", item.neighbours.join(", ")]]);
}

function stepOf(item) {
  const made = within("li", "", element("span", item.verdict, MOOD[item.verdict]), element("span", item.kind, "mono"), element("span", item.about, "mono soft about"));
  if (item.problem) made.append(element("span", item.problem, "bad more"));
  if (item.remedy) made.append(element("span", "remedy: " + item.remedy, "mono more"));
  return made;
}

function inspected(item) {
  const parts = [facts([["interface", `${item.interface} on network ${item.network}`], ["state", states(item).join(", ")], ["type", `${item.type} (plugins ${item.plugins.join(", ")})`],
    ["task", item.tasks.join(", ")], ["framework", item.framework], ["since", item.since && moment(item.since)], ["addresses", item.addresses.join(", ")],
    ["gateways", item.gateways.join(", ")], ["ports", ports(item).join(", ")], ["host side", [item.host_interface, item.parent].filter(Boolean).join(" in ")], ["namespace", item.netns]])];
  parts[0].querySelectorAll("dd")[1].className = mood(item);
  if (item.differs.length) parts.push(element("h3", "differs from " + item.file), within("ul", "steps", ...item.differs.map(text => element("li", text, "warn"))));
  if (item.update) parts.push(element("pre", item.update));
  if (item.nsenter) parts.push(element("h3", "look"), element("pre", item.nsenter));
  parts.push(element("h3", "inside"), ...(item.missing ? [element("p", item.missing, "bad")] : item.inside.map(interfaceOf)));
  if (item.routes.length) parts.push(facts([["routes", item.routes.join("; ")]]));
  parts.push(element("h3", "host"), ...item.host.map(interfaceOf));
  if (item.rules.length) parts.push(facts([["rules in", item.rules.join(", ")]]));
  parts.push(element("h3", "steps"), within("ul", "steps", ...item.steps.map(stepOf)));
  const config = element("pre");
  config.textContent = JSON.stringify(item.config, null, 2).split("\n").map(shown).join("\n");
  parts.push(within("details", "", element("summary", "configuration"), config));
  return parts;
}

let asked = 0;
async function inspect(name) {
  const mine = ++asked, dialog = $("inspect");
  $("inspected").textContent = "container " + shown(name);
  if (!dialog.open) { $("about").replaceChildren(element("p", "looking…", "soft")); dialog.showModal(); }
  let parts;
  try {
    const {items} = await (await get("v1/inspect", {name})).json();
    parts = items.flatMap(inspected);
  } catch (error) { parts = [element("p", error.message, "bad")]; }
  if (mine !== asked || !dialog.open) return;
  const unfolded = $("about").querySelector("details")?.open;
  $("about").replaceChildren(...parts);
  if (unfolded) for (const each of $("about").querySelectorAll("details")) each.open = true;
}
$("inspect").addEventListener("close", () => { asked++; if (route().inspect !== undefined) location.hash = "#/" + (view || "list"); });
$("close").addEventListener("click", () => $("inspect").close());
$("again").addEventListener("click", () => inspect(route().inspect));

// ---- policy

$("explain").addEventListener("submit", async event => {
  event.preventDefault();
  const form = new FormData($("explain")), traffic = form.get("traffic");
  try {
    const answers = await (await get("v1/explain", Object.fromEntries(form))).json();
    $("verdict").replaceChildren(...answers.map(answer => {
      const says = answer.allowed ? "passes" : `is refused (by the ${answer.refusedBy}'s side)`;
      return within("div", "card " + (answer.allowed ? "good" : "bad"), element("strong", `${traffic} from ${answer.source} to ${answer.target} ${says}`),
        within("ul", "", ...answer.reasons.map(r => element("li", `${r.end}: ${r.says} by ${r.policy}${r.where ? ", " + r.where : ""}`))),
        within("details", "soft", element("summary", "what the kernel's sets say"), within("ul", "mono", ...answer.kernel.map(line => element("li", line)))));
    }));
  } catch (error) { $("verdict").replaceChildren(within("div", "card bad", element("p", error.message))); }
});

// ---- where one is: #/list, #/picture, #/events, #/policy, #/inspect/NAME

let view = "";
function route() {
  const [, name = "", ...rest] = location.hash.split("/");
  if (name !== "inspect") return {view: VIEWS.includes(name) ? name : "list"};
  try { return {view: view || "list", inspect: decodeURIComponent(rest.join("/"))}; } catch { return {view: view || "list"}; }
}

function show(name) {
  if (view === name) return;
  view = name;
  for (const each of VIEWS) $(each).hidden = each !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === "#/" + name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (name === "picture") draw();
  if (name === "policy") {
    const ids = new Set([...rows.values()].map(row => row.item.container_id));
    $("known").replaceChildren(...[...ids].map(id => { const o = document.createElement("option"); o.value = id; return o; }));
  }
}

function go() {
  const where = route();
  show(where.view);
  if (where.inspect !== undefined) inspect(where.inspect); else if ($("inspect").open) $("inspect").close();
}
addEventListener("hashchange", go);

// ---- as it happens

function status(text, kind) { $("status").textContent = shown(text); $("status").className = kind; }

function watch() {
  const source = new EventSource("v1/events");
  const on = (kind, use) => source.addEventListener(kind, event => use(JSON.parse(event.data)));
  on("all", listing => { all(listing); status("live", "good"); });
  on("past", events => { events.slice(-MOST_EVENTS).forEach(happened); $("quiet").hidden = Boolean($("log").rows.length); });
  on("event", event => { happened(event); $("quiet").hidden = true; });
  on("changes", change);
  on("trouble", text => status(text || "live", text ? "bad" : "good"));
  source.onerror = async () => {
    status("no connection: trying again…", "bad");
    if (source.readyState !== EventSource.CLOSED) return;
    try { await get("v1/attachments"); setTimeout(watch, 3000); } catch (error) { status(error.message, "bad"); setTimeout(watch, 10000); }
  };
}

async function begin() {
  const token = location.hash.slice(1);
  if (token && !token.startsWith("/")) {
    history.replaceState(null, "", location.pathname + "#/list"); // it is no part of what one copies, or goes back to
    try {
      const answer = await fetch("v1/session", {headers: {Authorization: "Bearer " + token}});
      if (!answer.ok) throw new Error((await answer.json()).message);
    } catch (error) { status(error.message, "bad"); }
  }
  go();
  watch();
}
begin();
