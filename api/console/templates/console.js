// The console's script: moves through an object's history, and follows the log. Each page works without it.
"use strict";

const slider = document.getElementById("when");
if (slider) {
  const places = slider.dataset.places.trim().split(/\s+/);
  slider.addEventListener("change", () => location.assign(places[Number(slider.value)]));
}

const live = document.getElementById("live");
if (live) {
  const state = document.getElementById("live-state");
  const rows = document.querySelector("#records tbody");
  const most = 500; // rows that are kept
  let source = null;
  let seen = 0;

  const cell = (row, text) => row.insertCell().append(text ?? "");
  const pathOf = (key) => {
    const at = key.indexOf("/");
    return `/console/objects/${encodeURIComponent(key.slice(0, at))}/${encodeURIComponent(key.slice(at + 1))}`;
  };

  const add = (record) => {
    rows.querySelector(".none")?.remove();
    const row = rows.insertRow(0);
    cell(row, new Date(record.time_ms).toISOString().replace("T", " ").replace("Z", " UTC"));
    cell(row, `${record.topic}:${record.partition}:${record.offset}`);
    const object = row.insertCell();
    if (record.object?.includes("/")) {
      const link = document.createElement("a");
      link.href = pathOf(record.object) + (record.type === "entry" ? `?at=${record.offset}` : "");
      link.textContent = record.object;
      object.append(link);
    }
    const args = record.args ? JSON.stringify(record.args) : "";
    cell(row, [record.type, record.kind, record.method, record.path, args].filter(Boolean).join(" "));
    cell(row, record.caller);
    cell(row, record.error?.code ?? record.outcome);
    while (rows.rows.length > most) rows.deleteRow(-1);
    seen += 1;
    state.textContent = `Following: ${seen} new`;
  };

  const stop = () => {
    source?.close();
    source = null;
    live.setAttribute("aria-pressed", "false");
    live.textContent = "Follow";
    state.textContent = "";
  };

  const start = () => {
    source = new EventSource(live.dataset.events);
    live.setAttribute("aria-pressed", "true");
    live.textContent = "Stop following";
    state.textContent = "Following";
    source.onerror = () => { state.textContent = "The connection was lost; it is tried again."; };
    for (const type of ["entry", "command", "reply", "dead", "claim", "no-op", "header", "migration", "base", "frame", "other", "unreadable"]) {
      source.addEventListener(type, (event) => add(JSON.parse(event.data)));
    }
  };

  live.hidden = false;
  live.addEventListener("click", () => (source ? stop() : start()));
}
