// The same call as code, ready to paste. The key is read from FAL_KEY, so that none is pasted along.
import { inputToJson } from "./seeds.js";

/** Return what is worth writing down of an input: what differs from the API's defaults. */
function shown(input) {
  const defaults = { num_images: 1, output_format: "jpeg", enable_safety_checker: true, enable_prompt_expansion: false };
  return Object.fromEntries(Object.entries(input).filter(([name, value]) => defaults[name] !== value));
}

function pythonValue(value, name) {
  if (name === "seed") return String(value);
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[\n${value.map((one) => `            ${JSON.stringify(one)},\n`).join("")}        ]`;
  if (typeof value === "object") return JSON.stringify(value).replaceAll(":", ": ").replaceAll(",", ", ");
  return JSON.stringify(value);
}

export function python(endpoint, input) {
  const lines = Object.entries(shown(input)).map(
    ([name, value]) => `        "${name}": ${pythonValue(value, name)},`,
  );
  return `# pip install fal-client; run it with: glmimage exec -- python picture.py
import fal_client

result = fal_client.subscribe(
    "${endpoint}",
    arguments={
${lines.join("\n")}
    },
)
for image in result["images"]:
    print(image["url"])
`;
}

export function javascript(endpoint, input) {
  const body = inputToJson(shown(input), 2)
    .replace(/^( *)"(\w+)":/gm, "$1$2:")
    .replace(/^( *seed: )(\d+)/m, (found, name, digits) => (Number.isSafeInteger(Number(digits)) ? found : `${name}"${digits}"`))
    .replaceAll("\n", "\n  ");
  return `// npm install @fal-ai/client; run it with: glmimage exec -- node picture.mjs
import { fal } from "@fal-ai/client";

const result = await fal.subscribe("${endpoint}", {
  input: ${body},
});
for (const image of result.data.images) console.log(image.url);
`;
}

export function curl(endpoint, input, needsKey) {
  const body = inputToJson(shown(input), 2).replaceAll("'", "'\\''");
  const auth = needsKey ? `  -H "Authorization: Key $FAL_KEY" \\\n` : "";
  return `# waits for the picture; /queue in place of /run answers at once with an id
curl -s "${location.origin}/run/${endpoint}" \\
${auth}  -H "Content-Type: application/json" \\
  -d '${body}'
`;
}
