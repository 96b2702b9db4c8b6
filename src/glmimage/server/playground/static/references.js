// Up to four pictures to start from; the first is the subject. Dropped, pasted or chosen.
import { Icon } from "./icons.js";
import { openReference } from "./pictures.js";
import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";

export const MAX_REFERENCES = 4;

/** Open files as references behind those that are there; return {references, fault}. */
export async function addFiles(references, files) {
  const added = [...references];
  let fault = "";
  for (const file of files) {
    if (added.length >= MAX_REFERENCES) {
      fault = `At most ${MAX_REFERENCES} references are used. Remove one first.`;
      break;
    }
    try {
      added.push({ id: `${Date.now()}-${Math.random()}`, ...(await openReference(file)) });
    } catch (error) {
      fault = error.message;
    }
  }
  return { references: added, fault };
}

export function References({ references, setReferences, fault, announce }) {
  const [over, setOver] = useState(false);
  const [ownFault, setFault] = useState("");
  const chooser = useRef(null);
  const now = useRef(references);
  now.current = references;

  const add = async (files) => {
    if (!files.length) return;
    const opened = await addFiles(now.current, files);
    setFault(opened.fault);
    setReferences(opened.references);
    announce(opened.fault || `${opened.references.length} of ${MAX_REFERENCES} references.`);
  };
  useEffect(() => catchFiles(add, setOver), []);

  const move = (from, to) => {
    const moved = [...references];
    moved.splice(to, 0, ...moved.splice(from, 1));
    setReferences(moved);
    announce(`${moved[to].name} is now ${to === 0 ? "the subject" : `reference ${to + 1}`}.`);
  };
  const remove = (index) => {
    setReferences(references.filter((_, other) => other !== index));
    setFault("");
    announce(`${references[index].name} removed.`);
    chooser.current?.focus();
  };
  const full = references.length >= MAX_REFERENCES;
  return html`<fieldset class=${`field references ${over ? "over" : ""}`}>
    <legend>References <span class="optional">optional</span></legend>
    ${references.length > 0 && html`<ol class="reference-list">
      ${references.map((reference, index) => html`<${Reference} key=${reference.id} reference=${reference} index=${index}
        last=${index === references.length - 1} move=${move} remove=${remove} />`)}
    </ol>`}
    <button type="button" ref=${chooser} class="drop" aria-disabled=${full ? "true" : null} onClick=${(event) => !full && event.currentTarget.nextElementSibling.click()}>
      <${Icon} name="add" /><span>${full ? "Four is the most" : references.length ? "Add another" : "Drop, paste or choose pictures"}</span>
    </button>
    <input type="file" class="hidden-file" accept="image/*" multiple tabindex="-1" aria-label="Choose reference pictures"
      onChange=${(event) => { add([...event.target.files]); event.target.value = ""; }} />
    ${(fault || ownFault) && html`<p class="fault" role="alert"><${Icon} name="warn" />${fault || ownFault}</p>`}
    ${references.length > 1 && html`<p class="hint">The first is the subject. Drag, or use the arrows, to change the order.</p>`}
  </fieldset>`;
}

function Reference({ reference, index, last, move, remove }) {
  const name = index === 0 ? "Subject" : `Reference ${index + 1}`;
  const drop = (event) => {
    const from = event.dataTransfer.getData("text/reference");
    if (from === "") return;
    event.preventDefault();
    event.stopPropagation();
    move(Number(from), index);
  };
  return html`<li class="reference" draggable="true"
    onDragStart=${(event) => { event.dataTransfer.setData("text/reference", String(index)); event.dataTransfer.effectAllowed = "move"; }}
    onDragOver=${(event) => event.preventDefault()} onDrop=${drop}>
    <img src=${reference.thumb} alt=${`${name}: ${reference.name}`} draggable="false" />
    <span class="reference-name">${name}</span>
    <span class="reference-tools">
      <button type="button" aria-label=${`Move ${name} forward`} disabled=${index === 0} onClick=${() => move(index, index - 1)}><${Icon} name="left" /></button>
      <button type="button" aria-label=${`Remove ${name}`} onClick=${() => remove(index)}><${Icon} name="cancel" /></button>
      <button type="button" aria-label=${`Move ${name} back`} disabled=${last} onClick=${() => move(index, index + 1)}><${Icon} name="right" /></button>
    </span>
  </li>`;
}

/** Take pictures that are dropped anywhere on the page, or pasted. */
function catchFiles(add, setOver) {
  const pictures = (list) => [...(list ?? [])].filter((file) => file.type.startsWith("image/") || !file.type);
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const onPaste = (event) => {
    const files = pictures(event.clipboardData?.files);
    if (!files.length) return;
    event.preventDefault();
    add(files);
  };
  const onDragOver = (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    setOver(true);
  };
  const onDragLeave = (event) => {
    if (!event.relatedTarget) setOver(false);
  };
  const onDrop = (event) => {
    setOver(false);
    if (!carriesFiles(event)) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  };
  const handlers = { paste: onPaste, dragover: onDragOver, dragleave: onDragLeave, drop: onDrop };
  for (const [name, handler] of Object.entries(handlers)) document.addEventListener(name, handler);
  return () => {
    for (const [name, handler] of Object.entries(handlers)) document.removeEventListener(name, handler);
  };
}
