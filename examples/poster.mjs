// Paint one poster and print where it is.
import { fal } from "@fal-ai/client";

const result = await fal.subscribe("fal-ai/glm-image", {
  input: {
    prompt: "A conference poster with the headline 'AI Summit 2026' in bold sans-serif",
    image_size: "landscape_16_9",
    num_inference_steps: 30,
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_QUEUE") console.error(`waiting, ${update.queue_position} ahead`);
    if (update.status === "IN_PROGRESS") console.error(update.logs.at(-1)?.message ?? "painting");
  },
});
console.log(result.data.images[0].url);
