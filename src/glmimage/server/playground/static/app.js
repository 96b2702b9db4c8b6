// The page: composer on one side, pictures on the other; or the operator's view.
import * as api from "./api.js";
import { Composer, draftOf, faultsOf, inputOf, loadDraft, saveDraft } from "./composer.js";
import { KeyDialog, Lightbox } from "./dialogs.js";
import { explain } from "./errors.js";
import { EXAMPLES } from "./examples.js";
import { Icon } from "./icons.js";
import { Operations } from "./operations.js";
import { fetchPicture } from "./pictures.js";
import { addFiles, MAX_REFERENCES } from "./references.js";
import { doing, RunView } from "./run_view.js";
import { allRuns, forget, isActive, referencesOf, restore, start, subscribe } from "./runs.js";
import { randomSeed } from "./seeds.js";
import { sizeOf } from "./sizes.js";
import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/preact-htm.js";

const THEMES = ["auto", "light", "dark"];
const HEALTH_MS = 4000;

function applyTheme(theme) {
  document.documentElement.style.colorScheme = theme === "auto" ? "light dark" : theme;
}

/** Follow the server: is it there, can it paint, is the key good. */
function useServer(announce) {
  const [server, setServer] = useState({ reached: true, ready: true, reason: "", models: [] });
  const [price, setPrice] = useState(null);
  const [keyState, setKeyState] = useState("unknown"); // good, bad, missing
  const was = useRef(true);
  const checkKey = useCallback(async () => {
    try {
      setPrice(await api.unitPrice());
      setKeyState("good");
      return "";
    } catch (error) {
      const { kind, title, text } = explain(error);
      if (kind === "key") setKeyState(api.hasKey() ? "bad" : "missing");
      return kind === "key" ? `${title}. ${text}` : `${title}. ${text}`;
    }
  }, []);
  useEffect(() => {
    let timer;
    const look = async () => {
      try {
        const found = await api.health();
        setServer({ reached: true, ...found });
        if (!was.current) {
          announce("The server is back.");
          checkKey();
        }
        was.current = true;
      } catch {
        setServer((known) => ({ ...known, reached: false }));
        was.current = false;
      }
      timer = setTimeout(look, was.current ? HEALTH_MS : HEALTH_MS / 4);
    };
    look();
    checkKey();
    return () => clearTimeout(timer);
  }, []);
  return { server, price, keyState, checkKey };
}

function useRuns() {
  const [runs, setRuns] = useState(allRuns());
  useEffect(() => {
    const leave = subscribe(() => setRuns(allRuns()));
    restore();
    return leave;
  }, []);
  return runs;
}

function App() {
  const [view, setView] = useState("paint");
  const [theme, setTheme] = useState(localStorage.getItem("glmimage.theme") ?? "auto");
  const [draft, setDraft] = useState(loadDraft());
  const [references, setReferences] = useState([]);
  const [faults, setFaults] = useState({});
  const [selected, setSelected] = useState(null);
  const [dialog, setDialog] = useState(null);
  const [said, announce] = useState("");
  const { server, price, keyState, checkKey } = useServer(announce);
  const runs = useRuns();
  const stage = useRef(null);
  const run = runs.find((one) => one.id === selected) ?? runs[0];

  useEffect(() => applyTheme(theme), [theme]);
  useEffect(() => { if (keyState === "missing" || keyState === "bad") setDialog({ kind: "key" }); }, [keyState]);
  useSpoken(run, announce);

  const change = (changes) => {
    const next = { ...draft, ...changes };
    setDraft(next);
    saveDraft(next);
    setFaults({});
  };
  const changeReferences = (next) => {
    setReferences(next);
    setFaults(({ image_urls, ...others }) => others);
  };
  const send = (input, used) => {
    const id = start({ input, references: used, price: price ?? 0 });
    setSelected(id);
    stage.current?.scrollTo?.({ top: 0 });
    if (matchMedia("(max-width: 900px)").matches) stage.current?.scrollIntoView({ behavior: "smooth" });
  };
  const submit = () => {
    const wrong = faultsOf(draft);
    setFaults(wrong);
    const [first] = Object.keys(wrong);
    if (first) {
      announce(wrong[first]);
      document.querySelector('[aria-invalid="true"]')?.focus();
      if (first === "prompt") document.getElementById("prompt").focus();
      return;
    }
    if (keyState === "missing" || keyState === "bad") setDialog({ kind: "key" });
    else send(inputOf(draft), references);
  };
  /** Bring a request's input back into the form, at the field that is to blame. */
  const edit = (input, field, fault) => {
    change(draftOf(input, draft));
    if (field) setFaults({ [field]: fault });
    document.querySelector(field === "image_urls" ? ".references .drop" : "#prompt").focus();
  };
  const resend = (old, changes = {}) => {
    const used = referencesOf(old);
    if (used) send({ ...old.input, ...changes }, used);
    else edit(old.input, "image_urls", "Add the references again: a reload loses those that were not sent.");
  };
  const actions = {
    announce,
    askKey: () => setDialog({ kind: "key" }),
    open: (url, text) => setDialog({ kind: "picture", url, text }),
    vary: (old) => resend(old, { seed: randomSeed() }),
    repaint: (old) => resend(old, { seed: old.result.seed }),
    again: (old) => {
      if (old.error.kind === "refused" || old.error.kind === "input") edit(old.input, old.error.field, old.error.text);
      else resend(old);
    },
    useAsReference: async (url, name) => {
      const opened = await addFiles(references, [new File([await fetchPicture(url)], name)]);
      changeReferences(opened.references);
      if (opened.fault) setFaults({ image_urls: opened.fault });
      announce(opened.fault || `${name} is reference ${opened.references.length} of at most ${MAX_REFERENCES}.`);
      document.querySelector(".references")?.scrollIntoView({ behavior: "smooth", block: "center" });
    },
  };
  const useKey = async (text) => {
    api.setKey(text);
    const fault = await checkKey();
    if (!fault) {
      setDialog(null);
      announce("The key is accepted.");
    }
    return fault;
  };
  const { width, height } = draft.size === "custom" ? draft : sizeOf(draft.size);
  const cost = price === null ? null : (price * draft.numImages * width * height) / 1e6;
  return html`
    <a class="skip" href="#stage">Skip to the pictures</a>
    <${Header} view=${view} setView=${setView} theme=${theme} setTheme=${setTheme} server=${server} keyState=${keyState} askKey=${actions.askKey} />
    <${Banner} server=${server} />
    ${view === "operations"
      ? html`<main id="stage" class="page"><${Operations} askKey=${actions.askKey} /></main>`
      : html`<div class="workbench">
        <${Composer} draft=${draft} change=${change} references=${references} setReferences=${changeReferences} faults=${faults}
          submit=${submit} cost=${Number.isFinite(cost) ? cost : null} announce=${announce} shownSeed=${run?.result?.seed ?? run?.input.seed} />
        <main id="stage" class="stage" ref=${stage} tabindex="-1">
          <h1 class="unseen">Playground</h1>
          ${run ? html`<${RunView} key=${run.id} run=${run} actions=${actions} />` : html`<${Welcome} change=${change} />`}
          ${runs.length > 0 && html`<${History} runs=${runs} current=${run} select=${(id) => { setSelected(id); stage.current?.scrollTo?.({ top: 0, behavior: "smooth" }); }} />`}
        </main>
      </div>`}
    <p class="unseen" role="status" aria-live="polite">${said}</p>
    ${dialog?.kind === "key" && html`<${KeyDialog} reason=${keyState === "bad" ? "This key is not accepted." : ""} current=${api.hasKey()} use=${useKey} close=${() => setDialog(null)} />`}
    ${dialog?.kind === "picture" && html`<${Lightbox} ...${dialog} close=${() => setDialog(null)} />`}`;
}

/** Say aloud what changes: where the request is, not every step. */
function useSpoken(run, announce) {
  const state = run && `${run.id} ${run.state} ${run.position ?? ""}`;
  useEffect(() => {
    if (!run) return;
    if (run.state === "done" && Date.now() - run.endedAt < 5000) announce("The picture is ready.");
    else if (run.state === "failed" && Date.now() - run.endedAt < 5000) announce(`${run.error.title}. ${run.error.text}`);
    else if (isActive(run)) announce(run.state === "running" ? "Painting." : `${doing(run)}.`);
  }, [state]);
}

function Header({ view, setView, theme, setTheme, server, keyState, askKey }) {
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  const change = () => {
    localStorage.setItem("glmimage.theme", next);
    setTheme(next);
  };
  const model = server.models[0]?.split("/").filter(Boolean).pop();
  const state = !server.reached ? "offline" : server.ready ? model : "no worker";
  return html`<header class="top">
    <div class="brand"><svg viewBox="0 0 32 32" aria-hidden="true"><path d="M7 7h5v5H7z" /><path opacity=".65" d="M13.500 7h5v5h-5zM7 13.500h5v5H7z" /><path opacity=".35" d="M20 7h5v5h-5zM7 20h5v5H7z" /><path d="M13.500 13.500H25V25H13.500z" /></svg><span>glmimage</span></div>
    <nav aria-label="Views">
      ${[["paint", "Paint"], ["operations", "Operations"]].map(([id, name]) => html`<button type="button" aria-current=${view === id ? "page" : null} onClick=${() => setView(id)}>${name}</button>`)}
    </nav>
    <p class="server-state"><span class=${`dot ${!server.reached ? "bad" : server.ready ? "ok" : "wait"}`} aria-hidden="true"></span>${state}</p>
    <button type="button" class="quiet" onClick=${askKey} aria-label=${keyState === "good" ? "API key" : "Enter an API key"}><${Icon} name="key" /><span class="wide-only">${api.hasKey() ? "Key" : keyState === "good" ? "No key needed" : "Enter a key"}</span></button>
    <button type="button" class="quiet square" onClick=${change} aria-label=${`Colours: ${theme}. Change to ${next}.`} title=${`Colours: ${theme}`}><${Icon} name=${{ auto: "auto", light: "sun", dark: "moon" }[theme]} /></button>
  </header>`;
}

function Banner({ server }) {
  if (!server.reached) {
    return html`<div class="banner bad" role="alert"><${Icon} name="warn" /><p><strong>The server does not answer.</strong> What was sent is kept there. This page goes on by itself when it is back.</p></div>`;
  }
  if (!server.ready) return html`<div class="banner" role="status"><${Icon} name="warn" /><p><strong>Nobody can paint yet.</strong> ${withCode(server.reason)} What you send waits.</p></div>`;
  return null;
}

/** Show what stands in backticks as code. */
const withCode = (text) => text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));

function Welcome({ change }) {
  return html`<section class="welcome">
    <h2>A prompt becomes a picture <br />in which the text is right.</h2>
    <p>Describe it, put the words to be written in quotes, and press Paint. Or begin with one of these:</p>
    <ul>${EXAMPLES.slice(0, 4).map(({ name, prompt }) => html`<li><button type="button" onClick=${() => { change({ prompt }); document.getElementById("prompt").focus(); }}>
      <strong>${name}</strong><span>${prompt}</span></button></li>`)}</ul>
  </section>`;
}

/** The buttons have no label of their own: it would hide what is seen on them from those who speak to the page. */
function History({ runs, current, select }) {
  return html`<section class="history" aria-label="History"><h2>History</h2>
    <ul>${runs.map((run) => html`<li key=${run.id}>
      <button type="button" class="past" aria-current=${run.id === current?.id ? "true" : null} onClick=${() => select(run.id)}
        title=${run.input.prompt}>
        <span class="unseen">${run.input.prompt}, ${run.thumbs[0] && !run.expired && run.state}</span>
        ${run.thumbs[0] ? html`<img src=${run.thumbs[0]} alt="" />` : html`<span class="past-state">${pastState(run)}</span>`}
        ${run.thumbs.length > 1 && html`<span class="count">${run.thumbs.length}<span class="unseen"> pictures</span></span>`}
        ${run.expired && html`<span class="count">expired</span>`}
      </button>
      <button type="button" class="past-remove" aria-label=${`Remove from history: ${run.input.prompt}`} onClick=${() => forget(run.id)}><${Icon} name="trash" /></button>
    </li>`)}</ul></section>`;
}

function pastState(run) {
  if (isActive(run)) return run.state === "running" ? "painting" : "waiting";
  return run.state;
}

applyTheme(localStorage.getItem("glmimage.theme") ?? "auto");
render(html`<${App} />`, document.getElementById("app"));
