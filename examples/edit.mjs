// Give a photo another style: `node edit.mjs photo.jpg`. The file is uploaded on the way.
import { readFile } from "node:fs/promises";

import { fal } from "@fal-ai/client";

const photo = new Blob([await readFile(process.argv[2])], { type: "image/jpeg" });
const { data } = await fal.subscribe("fal-ai/glm-image/image-to-image", {
  input: {
    prompt: "Apply a watercolor style while preserving the subject",
    image_urls: [photo],
    image_size: "square",
    num_inference_steps: 20,
  },
});
console.log(data.images[0].url);
