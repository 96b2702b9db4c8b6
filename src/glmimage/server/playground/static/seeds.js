// Seeds are text here: they go up to 2**63 - 1, and JavaScript's numbers are exact to 2**53 only.
const MASK = (1n << 64n) - 1n;
const MAX_SEED = (1n << 63n) - 1n;

/** Return the seed of one picture of a request, so that it can be made again alone. */
export function imageSeed(seed, index) {
  if (index === 0) return String(seed);
  // splitmix64 of seed + index * golden gamma, cut to 53 bits: as the server does it
  let z = (BigInt(seed) + BigInt(index) * 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return String((z ^ (z >> 31n)) >> 11n);
}

export function randomSeed() {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

/** Return what is wrong with a seed, or "". */
export function seedFault(text) {
  if (!/^\d{1,19}$/.test(text) || BigInt(text) > MAX_SEED) {
    return "The seed must be a whole number, 0 or more.";
  }
  return "";
}

/** Write an input as JSON, its seed as the whole number it is. */
export function inputToJson(input, indent) {
  if (!("seed" in input)) return JSON.stringify(input, null, indent);
  const written = JSON.stringify({ ...input, seed: String(input.seed) }, null, indent);
  return written.replace(/"seed": ?"(\d+)"/, (found, digits) => found.replace(`"${digits}"`, digits)); // in a prompt, \"seed\"
}

/** Read a result, its seed as exact text. */
export function resultFromJson(text) {
  const exact = /"seed":\s*(\d+)/.exec(text);
  const result = JSON.parse(text);
  return exact ? { ...result, seed: exact[1] } : result;
}
