// What to paint: prompt, references, size and the rest, with the API's own names and limits.
import { EDIT_EXAMPLES, EXAMPLES } from "./examples.js";
import { Icon } from "./icons.js";
import { References } from "./references.js";
import { randomSeed, seedFault } from "./seeds.js";
import { MAX_SIDE, MIN_SIDE, PRESETS, SIDE_STEP, sideFault, sizeOf } from "./sizes.js";
import { html, useRef } from "./vendor/preact-htm.js";

const DRAFT_NAME = "glmimage.draft";
export const MAX_PROMPT = 4096;
export const FIRST_DRAFT = {
  prompt: "",
  size: "square_hd",
  width: 1024,
  height: 1024,
  steps: 30,
  guidance: 1.5,
  seed: "",
  seedLocked: false,
  numImages: 1,
  safety: true,
  expansion: false,
  format: "jpeg",
};

export function loadDraft() {
  try {
    return { ...FIRST_DRAFT, ...JSON.parse(localStorage.getItem(DRAFT_NAME)) };
  } catch {
    return FIRST_DRAFT;
  }
}

export const saveDraft = (draft) => localStorage.setItem(DRAFT_NAME, JSON.stringify(draft));

/** Return the API's input for a draft. */
export function inputOf(draft) {
  const size = draft.size === "custom" ? { width: Number(draft.width), height: Number(draft.height) } : draft.size;
  return {
    prompt: draft.prompt.trim(),
    image_size: size,
    num_inference_steps: Number(draft.steps),
    guidance_scale: Number(draft.guidance),
    ...(draft.seedLocked && draft.seed !== "" ? { seed: draft.seed } : {}),
    num_images: draft.numImages,
    enable_safety_checker: draft.safety,
    enable_prompt_expansion: draft.expansion,
    output_format: draft.format,
  };
}

/** Return a draft that asks for the same input. */
export function draftOf(input, draft) {
  const own = typeof input.image_size === "object";
  return {
    ...draft,
    prompt: input.prompt,
    size: own ? "custom" : input.image_size,
    ...(own ? input.image_size : {}),
    steps: input.num_inference_steps,
    guidance: input.guidance_scale,
    numImages: input.num_images,
    safety: input.enable_safety_checker,
    expansion: input.enable_prompt_expansion,
    format: input.output_format,
  };
}

/** Return what is wrong with a draft, by field. */
export function faultsOf(draft) {
  const faults = {};
  const numCharacters = [...draft.prompt.trim()].length; // as the server counts: an emoji is one
  if (!numCharacters) faults.prompt = "Describe the picture first.";
  else if (numCharacters > MAX_PROMPT) {
    faults.prompt = `The prompt has ${numCharacters} characters; at most ${MAX_PROMPT} are read. Shorten it.`;
  }
  if (draft.size === "custom") {
    faults.image_size = sideFault("width", draft.width) || sideFault("height", draft.height);
  }
  if (!inRange(draft.steps, 10, 100) || !Number.isInteger(Number(draft.steps))) {
    faults.num_inference_steps = "Steps must be a whole number from 10 to 100.";
  }
  if (!inRange(draft.guidance, 1, 10)) faults.guidance_scale = "Guidance must be a number from 1 to 10.";
  if (draft.seedLocked && draft.seed !== "") faults.seed = seedFault(draft.seed);
  return Object.fromEntries(Object.entries(faults).filter(([, text]) => text));
}

const inRange = (value, low, high) => value !== "" && Number(value) >= low && Number(value) <= high;

export function Composer({ draft, change, references, setReferences, faults, submit, cost, busy, announce, shownSeed }) {
  const { width, height } = draft.size === "custom" ? draft : sizeOf(draft.size);
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) {
      event.preventDefault();
      submit();
    }
  };
  return html`<form class="composer" aria-label="Picture" onKeyDown=${onKeyDown} noValidate
    onSubmit=${(event) => { event.preventDefault(); submit(); }}>
    <div class="composer-fields">
      <${Prompt} draft=${draft} change=${change} fault=${faults.prompt} edits=${references.length > 0} />
      <${References} references=${references} setReferences=${setReferences} fault=${faults.image_urls} announce=${announce} />
      <${Sizes} draft=${draft} change=${change} fault=${faults.image_size} />
      <div class="pair">
        <${Choice} legend="Pictures" name="num_images" value=${draft.numImages} values=${[1, 2, 3, 4]}
          choose=${(numImages) => change({ numImages })} />
        <${Choice} legend="Format" name="output_format" value=${draft.format} values=${["jpeg", "png"]}
          labels=${{ jpeg: "JPEG", png: "PNG" }} choose=${(format) => change({ format })} />
      </div>
      <${Slider} id="steps" label="Steps" min=${10} max=${100} step=${1} value=${draft.steps}
        hint="More steps, finer detail, more time" fault=${faults.num_inference_steps} set=${(steps) => change({ steps })} />
      <${Slider} id="guidance" label="Guidance" min=${1} max=${10} step=${0.1} value=${draft.guidance}
        hint="How closely the picture follows the prompt" fault=${faults.guidance_scale} set=${(guidance) => change({ guidance })} />
      <${Seed} draft=${draft} change=${change} fault=${faults.seed} shown=${shownSeed} />
      <div class="switches">
        <${Switch} label="Safety check" hint="Refuses unsafe prompts, blacks out unsafe pictures"
          on=${draft.safety} set=${(safety) => change({ safety })} />
        <${Switch} label="Expand the prompt" hint="A language model enriches it first"
          on=${draft.expansion} set=${(expansion) => change({ expansion })} />
      </div>
    </div>
    <div class="composer-send">
      <button class="primary" type="submit" disabled=${busy}>
        <span>${draft.numImages > 1 ? `Paint ${draft.numImages} pictures` : "Paint"}</span>
        <kbd aria-hidden="true">${/Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl"} ↵</kbd>
      </button>
      <p class="cost">${width} × ${height} px${cost === null ? "" : html`<span>${money(cost)}</span>`}</p>
    </div>
  </form>`;
}

export const money = (value) => (value === 0 ? "free" : `$${value.toFixed(value < 0.1 ? 3 : 2)}`);

function Fault({ id, text }) {
  return text ? html`<p class="fault" id=${id}><${Icon} name="warn" />${text}</p>` : null;
}

function Prompt({ draft, change, fault, edits }) {
  const examples = edits ? EDIT_EXAMPLES : EXAMPLES;
  return html`<div class="field prompt">
    <label for="prompt">${edits ? "What should become of it" : "Describe the picture"}</label>
    <textarea id="prompt" rows="4" value=${draft.prompt} aria-describedby=${fault ? "prompt-fault" : "prompt-hint"}
      aria-invalid=${fault ? "true" : null} placeholder=${examples[0].prompt}
      onInput=${(event) => change({ prompt: event.target.value })}></textarea>
    <${Fault} id="prompt-fault" text=${fault} />
    <p class="hint" id="prompt-hint">Put the words that should be written in quotes.</p>
    <div class="chips" role="group" aria-label="Examples">
      ${examples.map(({ name, prompt }) => html`<button type="button" class="chip" title=${prompt}
        onClick=${() => { change({ prompt }); document.getElementById("prompt").focus(); }}>${name}</button>`)}
    </div>
  </div>`;
}

function Sizes({ draft, change, fault }) {
  const longest = 1920;
  return html`<fieldset class="field">
    <legend>Size</legend>
    <div class="sizes">
      ${PRESETS.map(({ id, width, height, name }) => html`<label class="size" title=${`${name}, ${width} × ${height} px`}>
        <input type="radio" name="image_size" value=${id} checked=${draft.size === id} aria-label=${`${name}, ${width} by ${height} pixels`}
          onChange=${() => change({ size: id })} />
        <span class="shape-box"><span class="shape" style=${shape(width, height, longest)}></span></span>
        <span class="size-name" aria-hidden="true">${width}<i>×</i>${height}</span>
      </label>`)}
      <label class="size">
        <input type="radio" name="image_size" value="custom" checked=${draft.size === "custom"} aria-label="Custom size"
          onChange=${() => change({ size: "custom" })} />
        <span class="shape-box"><span class="shape custom" style=${shape(Number(draft.width) || 1024, Number(draft.height) || 1024, 2048)}></span></span>
        <span class="size-name" aria-hidden="true">Custom</span>
      </label>
    </div>
    ${draft.size === "custom" && html`<div class="custom-size">
      <${Side} name="width" value=${draft.width} set=${(width) => change({ width })} invalid=${Boolean(sideFault("width", draft.width))} />
      <span aria-hidden="true">×</span>
      <${Side} name="height" value=${draft.height} set=${(height) => change({ height })} invalid=${Boolean(sideFault("height", draft.height))} />
      <span class="hint">px, in steps of ${SIDE_STEP}</span>
    </div>`}
    <${Fault} id="size-fault" text=${fault} />
  </fieldset>`;
}

/** Draw a size to scale; the square root keeps small ones visible. */
function shape(width, height, longest) {
  const scale = 34 / Math.sqrt(longest * Math.max(width, height));
  return { width: `${Math.round(width * scale)}px`, height: `${Math.round(height * scale)}px` };
}

function Side({ name, value, set, invalid }) {
  return html`<input type="number" class="number" aria-label=${`${name} in pixels`} aria-invalid=${invalid ? "true" : null}
    min=${MIN_SIDE} max=${MAX_SIDE} step=${SIDE_STEP} value=${value} onInput=${(event) => set(event.target.value)} />`;
}

function Choice({ legend, name, value, values, labels = {}, choose }) {
  return html`<fieldset class="field"><legend>${legend}</legend>
    <div class="segments">
      ${values.map((one) => html`<label class="segment"><input type="radio" name=${name} checked=${value === one}
        onChange=${() => choose(one)} /><span>${labels[one] ?? one}</span></label>`)}
    </div></fieldset>`;
}

function Slider({ id, label, hint, min, max, step, value, fault, set }) {
  const filled = `${(100 * (Math.min(Math.max(value, min), max) - min)) / (max - min)}%`;
  return html`<div class="field slider">
    <label for=${id}>${label}</label>
    <input type="number" class="number" aria-label=${`${label}, exact value`} min=${min} max=${max} step=${step} value=${value}
      aria-invalid=${fault ? "true" : null} onInput=${(event) => set(event.target.value)} />
    <input type="range" id=${id} min=${min} max=${max} step=${step} value=${value} style=${{ "--filled": filled }}
      aria-describedby=${`${id}-hint`} onInput=${(event) => set(Number(event.target.value))} />
    <p class="hint" id=${`${id}-hint`}>${hint}</p>
    <${Fault} id=${`${id}-fault`} text=${fault} />
  </div>`;
}

/** shown: the seed of the request that is looked at, which is the one to keep. */
function Seed({ draft, change, fault, shown }) {
  const input = useRef(null);
  const locked = draft.seedLocked && draft.seed !== "";
  const lock = () => {
    change(locked ? { seedLocked: false } : { seedLocked: true, seed: draft.seed || shown || randomSeed() });
    if (!locked) input.current.focus();
  };
  return html`<div class="field seed">
    <label for="seed">Seed</label>
    <div class="seed-row">
      <input id="seed" ref=${input} class="number" inputmode="numeric" autocomplete="off" value=${draft.seed}
        placeholder="drawn for each request" aria-invalid=${fault ? "true" : null} aria-describedby="seed-hint"
        onInput=${(event) => change({ seed: event.target.value.trim(), seedLocked: event.target.value.trim() !== "" })} />
      <button type="button" class="quiet square" aria-pressed=${locked ? "true" : "false"} aria-label="Lock the seed"
        title="Lock the seed" onClick=${lock}><${Icon} name=${locked ? "lock" : "unlock"} /></button>
    </div>
    <${Fault} id="seed-fault" text=${fault} />
    <p class="hint" id="seed-hint">${locked ? "Locked: the same input gives the same picture." : "Open: every request draws a new one."}</p>
  </div>`;
}

function Switch({ label, hint, on, set }) {
  return html`<label class="switch">
    <input type="checkbox" role="switch" checked=${on} onChange=${(event) => set(event.target.checked)} />
    <span class="track" aria-hidden="true"></span>
    <span class="switch-text">${label}<span class="hint">${hint}</span></span>
  </label>`;
}
