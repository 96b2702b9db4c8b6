import { html } from "./vendor/preact-htm.js";

const PATHS = {
  download: "M12 4v11m0 0 4.500-4.500M12 15l-4.500-4.500M5 19.500h14",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  vary: "M4 12a8 8 0 0 1 13.700-5.600L20 8.500M20 4v4.500h-4.500M20 12a8 8 0 0 1-13.700 5.600L4 15.500M4 20v-4.500h4.500",
  reference: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 9.500h.01",
  cancel: "M6 6l12 12M18 6 6 18",
  lock: "M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.500 11V7.500a3.500 3.500 0 0 1 6.800-1.200",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01",
  left: "M14.500 6 8.500 12l6 6",
  right: "M9.500 6l6 6-6 6",
  add: "M12 5v14M5 12h14",
  key: "M15 9.500a4.500 4.500 0 1 1-4.500-4.500 4.500 4.500 0 0 1 4.500 4.500zM13.700 12.700 20 19m-2.500-2.500L15.500 18.500",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.500M12 19.500V21M3 12h1.500M19.500 12H21M5.600 5.600l1.100 1.100M17.300 17.300l1.100 1.100M5.600 18.400l1.100-1.100M17.300 6.700l1.100-1.100",
  moon: "M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10z",
  auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  trash: "M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7",
  code: "M8.500 7 4 12l4.500 5M15.500 7 20 12l-4.500 5",
  edit: "M5 19l1-4L16 5l3 3L9 18z",
  warn: "M12 4 2.800 19.500h18.400zM12 10v4.500M12 17.200h.01",
  check: "M5 12.500l4.500 4.500L19 7.500",
};

/** Draw an icon; the text beside it, or its button's label, says what it means. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}
