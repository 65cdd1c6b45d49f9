// The status page: asks /api/v1/status every five seconds and shows it. Text from the router is
// only ever set as text, never as HTML.
"use strict";

const PERIOD_MS = 5000;
const ANSWER_TIMEOUT_MS = 8000;

let lastAnswer = null;
let version = null;

// --- small helpers -------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function element(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "class") node.className = value;
    else if (name === "label") node.dataset.label = value;
    else node.setAttribute(name, value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

// Replaces the content only if it differs, so that a selection or a scroll position stays.
function show(id, ...nodes) {
  const place = byId(id);
  const next = element("div", null, ...nodes);
  if (place.innerHTML !== next.innerHTML) place.replaceChildren(...next.childNodes);
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit === 0 ? count : count.toFixed(1)) + " " + units[unit];
}

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "0 s";
  const text = [];
  for (const [size, unit] of parts.slice(first, first + 2)) {
    text.push(Math.floor(seconds / size) + " " + unit);
    seconds %= size;
  }
  return text.join(" ");
}

const number = (value) => value.toLocaleString("en");
const date = (unixSeconds) => new Date(unixSeconds * 1000).toLocaleString();
const dot = (kind) => element("span", { class: "dot " + kind, "aria-hidden": "true" });
const state = (kind, text) => element("span", { class: "state" }, dot(kind), text);
const mono = (text) => element("span", { class: "mono" }, text);
const missing = (text) => element("p", { class: "empty" }, text);

function facts(rows) {
  const list = element("dl");
  for (const [name, value] of rows) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", null, name), element("dd", null, value));
  }
  return list;
}

// columns: [heading, row => node or text, row => whether a phone leaves it out]; the first one leads
// the row on a phone.
// The roles are said again: laid out as blocks, as on a phone, a table is none for a screen reader.
function table(columns, rows) {
  const head = element("tr", { role: "row" });
  for (const [heading] of columns) head.append(element("th", { scope: "col", role: "columnheader" }, heading));
  const body = element("tbody", { role: "rowgroup" });
  for (const row of rows) {
    const line = element("tr", { role: "row" });
    columns.forEach(([heading, cell, minor], index) => {
      const kind = index === 0 ? "lead-cell" : minor && minor(row) ? "minor" : "";
      line.append(element("td", { label: heading, class: kind, role: "cell" }, cell(row)));
    });
    body.append(line);
  }
  return element("div", { class: "scroll" },
    element("table", { role: "table" }, element("thead", { role: "rowgroup" }, head), body));
}

function meter(label, used, total) {
  const share = total > 0 ? used / total : 0;
  return element("meter", { "aria-label": label, min: 0, max: 1, high: 0.9, value: share.toFixed(3) });
}

// --- the parts -----------------------------------------------------------------------------

// "service `dns` does not answer: cannot connect to ..." in the words of a person.
const why = (status, part) => (status.errors[part] || "no answer").split(": ")[0].replaceAll("`", "");
const unavailable = (status, part) => missing("Not available at the moment: " + why(status, part) + ".");

function showHealth(status) {
  const place = byId("health");
  const lines = [];
  let kind = "good";
  let title = "Everything works";
  if (!status.system) {
    kind = "warn";
    title = "Health is unknown";
    lines.push("The router answers, but its supervisor does not: " + why(status, "system") + ".");
  } else if (!status.system.healthy) {
    kind = "bad";
    title = "Something does not work";
    lines.push(...status.system.problems);
  } else if (Object.keys(status.errors).length) {
    kind = "warn";
    title = "Some parts do not answer";
    lines.push(...new Set(Object.keys(status.errors).map((part) => why(status, part))));
  } else if (status.wan && status.wan.length && !status.wan.some((lease) => lease.address)) {
    kind = "warn";
    title = "No internet connection";
    lines.push("The router works, but has no address from the internet provider yet. Is the cable plugged into the right port?");
  }
  place.className = "health " + kind;
  const body = element("div", null, element("h2", null, title));
  if (lines.length === 1) body.append(element("p", null, lines[0]));
  if (lines.length > 1) body.append(element("ul", null, ...lines.map((line) => element("li", null, line))));
  show("health", dot(kind), body);
}

function showNotes(status) {
  const notes = [];
  if (status.config && status.config.problem) {
    notes.push(element("div", { class: "notice warn" },
      element("strong", null, "The configuration needs a look"), status.config.problem));
  }
  show("notes", ...notes);
}

function showInternet(status) {
  if (!status.wan) return show("internet", unavailable(status, "wan"));
  if (!status.wan.length) {
    const wan = (status.interfaces || []).filter((i) => i.gateway);
    if (!wan.length) return show("internet", missing("No connection to the internet is set up."));
    return show("internet", ...wan.map((i) => facts([
      ["Address", mono(i.addresses.join(", "))], ["Gateway", mono(i.gateway)], ["By", i.name],
    ])));
  }
  show("internet", ...status.wan.flatMap((lease) => {
    const port = (status.interfaces || []).find((i) => i.name === lease.interface);
    const title = lease.address
      ? state("good", "Connected")
      : state("bad", port && !port.carrier ? "No cable" : "Waiting for an address");
    const left = lease.obtained_unix_s + lease.lease_s - status.time_unix_s;
    return [
      element("p", { class: "lead" }, title),
      facts([
        ["By", lease.interface + (port && port.device ? " (" + port.device + ")" : "")],
        ["Address", lease.address && mono(lease.address)],
        ["Gateway", lease.address && lease.gateway && mono(lease.gateway)],
        ["DNS", lease.address && lease.dns.length ? mono(lease.dns.join(", ")) : null],
        ["Lease", lease.address ? "for " + duration(Math.max(0, left)) + " more (" + lease.state + ")" : lease.state],
        ["Received", port && bytes(port.rx_bytes)],
        ["Sent", port && bytes(port.tx_bytes)],
      ]),
    ];
  }));
}

function showNetworks(status) {
  if (!status.interfaces) return show("networks", unavailable(status, "interfaces"));
  const dynamic = new Set((status.wan || []).map((lease) => lease.interface));
  const networks = status.interfaces.filter((i) => !dynamic.has(i.name));
  if (!networks.length) return show("networks", missing("No network is set up."));
  show("networks", ...networks.flatMap((i) => {
    const ports = i.ports.map((port) => state(port.carrier ? "good" : "", port.device + (port.carrier ? "" : " (no cable)")));
    return [
      element("p", { class: "lead" }, state(i.carrier ? "good" : "warn", i.name + (i.carrier ? "" : ": nothing plugged in"))),
      facts([
        ["Address", i.addresses.length ? mono(i.addresses.join(", ")) : "none"],
        ["Ports", ports.length ? element("span", null, ...ports.flatMap((port) => [port, " "])) : "none"],
        ["Received", bytes(i.rx_bytes)],
        ["Sent", bytes(i.tx_bytes)],
      ]),
    ];
  }));
}

function showSystem(status) {
  const system = status.system;
  if (!system) return show("system", unavailable(status, "system"));
  const memory = system.memory_total_bytes - system.memory_available_bytes;
  const data = system.data_total_bytes - system.data_free_bytes;
  const boot = (status.boot || []).reduce((sum, phase) => sum + phase.seconds, 0);
  show("system", facts([
    ["Version", status.version],
    ["Kernel", system.kernel],
    ["Running for", duration(system.uptime_s)],
    ["Start took", boot ? boot.toFixed(1) + " s" : null],
    ["Memory", element("span", null, bytes(memory) + " of " + bytes(system.memory_total_bytes), meter("Memory in use", memory, system.memory_total_bytes))],
    ["Storage", element("span", null, bytes(data) + " of " + bytes(system.data_total_bytes), meter("Storage in use", data, system.data_total_bytes))],
    ["Configuration", status.config ? "number " + status.config.generation + ", " + sources[status.config.source] : why(status, "config")],
  ]));
}

const sources = {
  defaults: "as delivered",
  stored: "stored here",
  volume: "from the volume PORTCULLIS",
  "last-good": "the last one that worked",
};

function showTraffic(status) {
  const rows = [];
  if (status.flows) {
    rows.push(["Connections", element("span", null,
      number(status.flows.total) + " of " + number(status.flows.capacity),
      meter("Connections in use", status.flows.total, status.flows.capacity))]);
  } else {
    rows.push(["Connections", "not available: " + why(status, "flows")]);
  }
  if (status.dns) {
    const dns = status.dns;
    rows.push(
      ["Names looked up", number(dns.queries)],
      ["From memory", dns.queries ? Math.round(100 * dns.cache_hits / dns.queries) + " %" : null],
      ["Not answered", number(dns.failed)],
      ["DNS servers", dns.upstreams.length
        ? element("span", null, ...dns.upstreams.flatMap((upstream) => [
          state(upstream.healthy ? "good" : "bad", upstream.address + (!upstream.healthy ? ", does not answer"
            : upstream.rtt_ms === null ? "" : ", " + upstream.rtt_ms + " ms")),
          element("br"),
        ]))
        : "none known yet"],
    );
  } else {
    rows.push(["Names", "not available: " + why(status, "dns")]);
  }
  show("traffic", facts(rows));
}

function showDevices(status) {
  if (!status.leases) {
    byId("device-count").textContent = "";
    return show("devices", unavailable(status, "leases"));
  }
  const devices = status.leases.filter((lease) => lease.state === "bound");
  byId("device-count").textContent = devices.length ? String(devices.length) : "";
  if (!devices.length) {
    return show("devices", missing("No device has asked for an address yet. Plug one into a LAN port and let it get its address by DHCP."));
  }
  show("devices", table([
    ["Name", (lease) => lease.hostname || "unnamed device"],
    ["Address", (lease) => mono(lease.address)],
    ["Hardware address", (lease) => mono(lease.mac), () => true],
    ["Network", (lease) => lease.interface, () => true],
    ["Lease", (lease) => lease.reserved ? "reserved" : "for " + duration(Math.max(0, lease.expires_unix_s - status.time_unix_s)) + " more"],
  ], devices));
}

function showServices(status) {
  if (!status.services) return show("services", unavailable(status, "services"));
  const kinds = { ready: "good", failed: "bad", "backing-off": "bad", stopped: "bad" };
  show("services", table([
    ["Service", (s) => s.name],
    ["State", (s) => state(kinds[s.state] || "warn", s.state)],
    ["What it does", (s) => s.description, () => true],
    ["Says", (s) => (s.state === "ready" ? s.status_text : s.last_exit || s.status_text) || "-"],
    ["Restarts", (s) => String(s.restarts), (s) => s.restarts === 0],
    ["Memory", (s) => bytes(s.memory_bytes), () => true],
  ], status.services));
}

function showSlots(status) {
  if (!status.slots) return show("slots", unavailable(status, "slots"));
  show("slots", table([
    ["Copy", (slot) => slot.name.toUpperCase() + (slot.running ? ", running" : "")],
    ["Version", (slot) => slot.version || "empty"],
    ["State", (slot) => !slot.version ? "-"
      : slot.confirmed ? state("good", "proven")
      : slot.priority === 0 ? state("bad", "not used")
      : state("warn", "on trial, " + slot.tries_left + " tries left")],
  ], status.slots));
}

function showCertificate(status) {
  const certificate = status.certificate;
  const pairs = certificate.sha256.toUpperCase().match(/../g) || [];
  const fingerprint = element("span", { class: "mono" });
  // May break after every pair, nowhere else.
  pairs.forEach((pair, index) => fingerprint.append(index ? ":" : "", element("wbr"), pair));
  show("certificate", facts([
    ["SHA-256", fingerprint],
    ["Valid until", date(certificate.not_after_unix_s)],
    ["For", mono(certificate.names.join(", "))],
  ]));
}

// --- asking --------------------------------------------------------------------------------

function showAll(status) {
  byId("version").textContent = status.version;
  document.title = (status.system && !status.system.healthy ? "(!) " : "") + "Portcullis";
  for (const part of [showHealth, showNotes, showInternet, showNetworks, showSystem, showTraffic,
    showDevices, showServices, showSlots, showCertificate]) part(status);
}

function showUnreachable(reason) {
  const box = byId("unreachable");
  const since = lastAnswer ? " What you see below is from " + lastAnswer.toLocaleTimeString() + "." : "";
  box.replaceChildren(element("strong", null, "The router does not answer"),
    reason + " Trying again every few seconds." + since);
  box.hidden = false;
  document.body.classList.add("stale");
  document.title = "(?) Portcullis";
}

async function refresh() {
  try {
    const answer = await fetch("/api/v1/status", {
      cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error("It answers with error " + answer.status + ".");
    const status = await answer.json();
    // Another release of the router has another page.
    if (version !== null && version !== status.version) return location.reload();
    version = status.version;
    lastAnswer = new Date();
    byId("unreachable").hidden = true;
    document.body.classList.remove("stale");
    byId("updated").textContent = "as of " + lastAnswer.toLocaleTimeString();
    showAll(status);
    byId("parts").hidden = false;
  } catch (error) {
    const known = error instanceof Error && error.message.startsWith("It answers");
    showUnreachable(known ? error.message : "It may be starting anew, or this device has lost its connection to it.");
  }
}

async function refreshForever() {
  let wake = () => {};
  document.addEventListener("visibilitychange", () => wake());
  for (;;) {
    // A hidden page asks nothing.
    if (!document.hidden) await refresh();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, PERIOD_MS);
      wake = () => { clearTimeout(timer); resolve(); };
    });
  }
}

byId("health").hidden = false;
refreshForever();
