// The operator's view: what waits, who works, what failed, who has used how much, what was delivered.
import { operator } from "./api.js";
import { money } from "./composer.js";
import { explain } from "./errors.js";
import { Icon } from "./icons.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

const EVERY_MS = 3000;
const PARTS = ["queue", "workers", "failures", "usage", "webhooks"];
const SPANS = { "24 hours": 1, "7 days": 7, "30 days": 30 };

export function Operations({ askKey }) {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const [span, setSpan] = useState("7 days");
  useEffect(() => {
    let over = false;
    let timer;
    const load = async () => {
      const start = new Date(Date.now() - SPANS[span] * 86400e3).toISOString();
      try {
        const answers = await Promise.all(PARTS.map((part) => operator(part, part === "usage" ? `?start=${encodeURIComponent(start)}` : "")));
        if (over) return;
        setFound(Object.assign({}, ...answers));
        setError(null);
      } catch (failure) {
        if (!over) setError(explain(failure));
      }
      if (!over) timer = setTimeout(load, EVERY_MS);
    };
    load();
    return () => { over = true; clearTimeout(timer); };
  }, [span]);
  return html`<div class="operations">
    <h1>Operations</h1>
    ${error && html`<div class="notice failed" role="alert"><${Icon} name="warn" /><div><strong>${error.title}</strong><p>${error.text}</p></div>
      ${(error.kind === "key" || error.kind === "rights") && html`<button type="button" class="quiet" onClick=${askKey}>Enter another key</button>`}</div>`}
    ${found && html`<div class="cards">
      <${Queue} queues=${found.queues} requests=${found.requests} />
      <${Workers} workers=${found.workers} />
      <${Usage} usage=${found.usage} span=${span} setSpan=${setSpan} />
      <${Failures} failures=${found.failures} />
      <${Deliveries} deliveries=${found.deliveries} />
    </div>`}
  </div>`;
}

function Card({ title, wide, aside, children }) {
  return html`<section class=${`card ${wide ? "wide" : ""}`} aria-label=${title}><header><h2>${title}</h2>${aside}</header>${children}</section>`;
}

function Table({ label, heads, rows, none }) {
  if (!rows.length) return html`<p class="none">${none}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${`${label}, table`}><table><thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
    <tbody>${rows.map((cells) => html`<tr>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`;
}

const kind = (endpoint) => (endpoint.endsWith("/image-to-image") ? "edit" : "text to image");
const short = (id) => html`<code title=${id}>${String(id).slice(0, 8)}</code>`;
const ago = (time) => {
  const s = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (s < 60) return `${Math.round(s)} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
};
const Dot = ({ state }) => html`<span class=${`dot ${state}`} aria-hidden="true"></span>`;

function Queue({ queues, requests }) {
  const total = (name) => queues.reduce((sum, queue) => sum + queue[name], 0);
  const oldest = Math.max(...queues.map((queue) => queue.oldest_waits_s ?? 0));
  const rows = requests.map((one) => [
    short(one.request_id), kind(one.endpoint_id), one.key ?? "none", `${one.num_images} × ${one.width}×${one.height}`,
    one.state === "running" ? `${one.stage}, ${Math.round(one.progress * 100)} %` : one.state, ago(one.sent_at),
  ]);
  return html`<${Card} title="Queue" wide=${true}>
    <div class="figures">
      <p><strong>${total("num_waiting")}</strong>waiting</p>
      <p><strong>${total("num_running")}</strong>in work</p>
      <p><strong>${oldest ? `${Math.round(oldest)} s` : "0 s"}</strong>longest wait now</p>
    </div>
    <${Table} label="Requests under way" heads=${["Request", "Kind", "Key", "Pictures", "State", "Sent"]} rows=${rows} none="Nothing is under way." />
  <//>`;
}

function Workers({ workers }) {
  const rows = workers.map((one) => [
    html`<${Dot} state=${one.ready ? "ok" : "wait"} />${one.ready ? "ready" : "loading"}`, one.model.split("/").pop(), one.device ?? "", one.stages.join(", "), one.num_requests, ago(one.started_at),
  ]);
  return html`<${Card} title="Workers">
    <${Table} label="Workers" heads=${["State", "Model", "Device", "Stages", "In hand", "Started"]} rows=${rows} none="No worker is alive. Start one with: glmimage worker" />
  <//>`;
}

function Usage({ usage, span, setSpan }) {
  const most = Math.max(...usage.map((row) => row.cost_total), 1e-9);
  const rows = usage.map((row) => [
    row.key ?? "no key", row.num_requests, `${row.megapixels.toFixed(2)} MP`,
    html`<span class="meter"><i style=${{ width: `${(100 * row.cost_total) / most}%` }}></i></span>${money(row.cost_total)}`,
  ]);
  const choose = html`<select class="number" aria-label="Time span" value=${span} onChange=${(event) => setSpan(event.target.value)}>
    ${Object.keys(SPANS).map((one) => html`<option value=${one}>${one}</option>`)}</select>`;
  return html`<${Card} title="Usage by key" aside=${choose}>
    <${Table} label="Usage by key" heads=${["Key", "Requests", "Painted", "Cost"]} rows=${rows} none="Nothing was used." />
  <//>`;
}

function Failures({ failures }) {
  const rows = failures.map((one) => [ago(one.ended_at), short(one.request_id), one.key ?? "none", one.status_code, html`<span class="reason">${one.error}</span>`]);
  return html`<${Card} title="Recent failures" wide=${true}>
    <${Table} label="Recent failures" heads=${["When", "Request", "Key", "Status", "Why"]} rows=${rows} none="None." />
  <//>`;
}

function Deliveries({ deliveries }) {
  const dots = { delivered: "ok", failed: "bad", pending: "wait" };
  const rows = deliveries.map((one) => [
    html`<${Dot} state=${dots[one.state]} />${one.state}`, html`<span class="reason">${one.url}</span>`, one.attempts, one.status_code ?? one.error ?? "", ago(one.created_at),
  ]);
  return html`<${Card} title="Webhook deliveries" wide=${true}>
    <${Table} label="Webhook deliveries" heads=${["State", "To", "Attempts", "Answer", "Made"]} rows=${rows} none="None." />
  <//>`;
}
