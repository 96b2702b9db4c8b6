// Prompts to start from; their words in quotes are what the model writes into the picture.
export const EXAMPLES = [
  { name: "Shop sign", prompt: "A sign that says 'OPEN', white letters on a deep green background" },
  { name: "Poster", prompt: "A concert poster with the headline 'JAZZ NIGHT', gold letters on dark blue" },
  { name: "Menu board", prompt: "A menu board with the words 'FRESH COFFEE' on a warm yellow background" },
  { name: "Book cover", prompt: "A book cover with the title 'THE GARDEN', a red circle above it" },
  { name: "Sale", prompt: "A shop window poster that says 'SALE' in large red letters on white" },
];
/** For when there are references. */
export const EDIT_EXAMPLES = [
  { name: "Watercolor", prompt: "Apply a watercolor style while preserving the subject" },
  { name: "Other words", prompt: "Change the headline to 'TONIGHT', keep everything else" },
  { name: "Other background", prompt: "Make the background deep green, keep everything else" },
];
