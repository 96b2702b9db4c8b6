// The key, and a picture in full size.
import { Icon } from "./icons.js";
import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";

function Modal({ label, className = "", close, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
    return () => dialog.current?.close();
  }, []);
  return html`<dialog ref=${dialog} class=${className} aria-label=${label} onClose=${close}
    onClick=${(event) => event.target === dialog.current && close()}>${children}</dialog>`;
}

export function KeyDialog({ reason, current, use, close }) {
  const [text, setText] = useState("");
  const [fault, setFault] = useState(reason);
  const [asking, setAsking] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    if (!text.trim()) {
      setFault("Paste the key first.");
      return;
    }
    setAsking(true);
    setFault(await use(text));
    setAsking(false);
  };
  return html`<${Modal} label="API key" className="key-dialog" close=${close}>
    <form onSubmit=${submit}>
      <h2>Your key</h2>
      <p>This server asks who paints. <code>glmimage serve</code> prints a key when it starts for the first time; <code>glmimage keys create NAME</code> makes more.</p>
      <label for="key">API key</label>
      <input id="key" type="password" class="number" autocomplete="off" autofocus value=${text} aria-invalid=${fault ? "true" : null}
        aria-describedby="key-note" onInput=${(event) => setText(event.target.value)} />
      ${fault && html`<p class="fault" role="alert"><${Icon} name="warn" />${fault}</p>`}
      <p class="hint" id="key-note">It is kept in this browser, and sent to this server only.</p>
      <div class="dialog-buttons">
        ${current && html`<button type="button" class="quiet" onClick=${() => use("")}>Forget the key</button>`}
        <button type="button" class="quiet" onClick=${close}>Not now</button>
        <button type="submit" class="primary" disabled=${asking}>Use this key</button>
      </div>
    </form>
  <//>`;
}

export function Lightbox({ url, text, close }) {
  return html`<${Modal} label=${text} className="lightbox" close=${close}>
    <img src=${url} alt=${text} onClick=${close} />
    <button type="button" class="quiet square" aria-label="Close" onClick=${close}><${Icon} name="cancel" /></button>
  <//>`;
}
