// The published presets, and what a size of one's own may be.
export const PRESETS = [
  ["square_hd", 1024, 1024, "Square HD"],
  ["square", 512, 512, "Square"],
  ["portrait_4_3", 768, 1024, "Portrait 4:3"],
  ["portrait_16_9", 576, 1024, "Portrait 16:9"],
  ["portrait_3_2", 1024, 1536, "Portrait 3:2"],
  ["portrait_hd", 1088, 1920, "Portrait HD"],
  ["landscape_4_3", 1024, 768, "Landscape 4:3"],
  ["landscape_16_9", 1024, 576, "Landscape 16:9"],
  ["landscape_3_2", 1536, 1024, "Landscape 3:2"],
  ["landscape_hd", 1920, 1088, "Landscape HD"],
].map(([id, width, height, name]) => ({ id, width, height, name }));

export const MIN_SIDE = 512;
export const MAX_SIDE = 2048;
export const SIDE_STEP = 32;

/** Return {width, height} in px of what the API takes as image_size. */
export function sizeOf(imageSize) {
  if (typeof imageSize === "object") return imageSize;
  return PRESETS.find((preset) => preset.id === imageSize) ?? PRESETS[0];
}

/** Return what is wrong with a side, or "". */
export function sideFault(name, value) {
  const side = Number(value);
  if (!Number.isInteger(side)) return `The ${name} must be a whole number of pixels.`;
  if (side < MIN_SIDE || side > MAX_SIDE) {
    return `The ${name} must be between ${MIN_SIDE} and ${MAX_SIDE} px.`;
  }
  if (side % SIDE_STEP) {
    const below = side - (side % SIDE_STEP);
    return `The ${name} must be a multiple of ${SIDE_STEP}: ${below} or ${below + SIDE_STEP}.`;
  }
  return "";
}
