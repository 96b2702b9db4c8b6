// What the test files share.
import assert from "node:assert/strict";

export const APP = "fal-ai/glm-image";
export const EDIT = "fal-ai/glm-image/image-to-image";
export const QUICK = {
  prompt: "A sign that says 'OPEN'",
  image_size: "square",
  num_inference_steps: 10,
};
export const LONG = { ...QUICK, num_inference_steps: 100, num_images: 4 };

// a 64x64 PNG of one colour
export const PHOTO = new Blob(
  [
    Buffer.from(
      "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAUUlEQVR42u3PMQ0AMAgAMJgaJCIRWVPBQdI6aE5XXP" +
        "biOAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAYF9HxzAAehaf9vAAAAAAElFTkSu" +
        "QmCC",
      "base64",
    ),
  ],
  { type: "image/png" },
);

export async function checkPicture(image) {
  const response = await fetch(image.url);
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-type"), image.content_type);
  const bytes = new Uint8Array(await response.arrayBuffer());
  assert.equal(bytes.length, image.file_size);
  const magic = image.content_type === "image/png" ? [0x89, 0x50] : [0xff, 0xd8];
  assert.deepEqual([...bytes.slice(0, 2)], magic);
}
