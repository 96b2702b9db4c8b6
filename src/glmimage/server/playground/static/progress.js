// What a request's log says about its pictures. Times are measured, never guessed: no measure, no time.
const PRIOR_SHARE = 0.3; // of a bar; the rest is painting
const PACE_STEPS = 12; // the newest steps tell the pace

/** Read log entries, the oldest first; a worker that begins again begins here again, too. */
export function readLogs(logs, numImages) {
  const state = emptyState(numImages);
  for (const { message, timestamp } of logs) {
    const at = Date.parse(timestamp) / 1000;
    let match = /^prior (\d+) %$/.exec(message);
    if (match) {
      const share = Number(match[1]) / 100;
      if (share < state.prior) Object.assign(state, emptyState(numImages), { numPreviews: state.numPreviews });
      state.prior = share;
      state.priorMarks.push([at, share]);
      continue;
    }
    match = /^(?:picture (\d+)\/\d+: )?step (\d+)\/(\d+)$/.exec(message);
    if (match) {
      takeStep(state, match[1] ? Number(match[1]) - 1 : null, Number(match[2]), Number(match[3]), at);
      continue;
    }
    match = /^picture (\d+)\/\d+: preview$/.exec(message);
    if (match) state.numPreviews += 1;
    else state.notes.push(message);
  }
  return state;
}

function emptyState(numImages) {
  return {
    prior: 0,
    priorMarks: [],
    steps: Array(numImages).fill(0),
    numSteps: 0,
    together: true,
    stepMarks: [],
    numPreviews: 0,
    notes: [],
  };
}

function takeStep(state, index, step, total, at) {
  const before = sum(state.steps);
  state.prior = 1;
  state.numSteps = total;
  if (index === null) state.steps.fill(step);
  else state.steps[index] = step;
  if (state.steps.length > 1) state.together = index === null;
  const done = sum(state.steps);
  if (done <= before) state.stepMarks = [];
  state.stepMarks.push([at, done]);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Return the measured seconds between two units of `marks`, or null without two of them. */
export function pace(marks) {
  const last = marks.at(-1);
  const first = marks[Math.max(0, marks.length - 1 - PACE_STEPS)];
  if (!last || last[1] <= first[1]) return null;
  return (last[0] - first[0]) / (last[1] - first[1]);
}

/** Return 0 to 1 for one picture. */
export function fraction(state, index) {
  const painted = state.numSteps ? state.steps[index] / state.numSteps : 0;
  return PRIOR_SHARE * state.prior + (1 - PRIOR_SHARE) * painted;
}

/** Return {stage, seconds} of one picture. seconds: null unless measured.
 *
 * sinceLast: seconds since the newest entry came. knownStepS: what a step of such a picture took in
 * an earlier request, or null.
 */
export function outlook(state, index, sinceLast, numSteps, knownStepS) {
  const total = state.numSteps || numSteps;
  const own = total - state.steps[index];
  const ahead = state.together || state.steps[index] ? 0 : stepsAhead(state.steps, index, total);
  const stepS = pace(state.stepMarks);
  if (!state.numSteps) {
    const priorS = pace(state.priorMarks);
    const left = priorS === null ? null : priorS * (1 - state.prior) - sinceLast;
    const all = left === null || knownStepS === null ? null : left + knownStepS * total * (index + 1);
    return { stage: state.prior >= 1 ? "paint" : "layout", seconds: all === null ? null : Math.max(all, 0) };
  }
  if (own <= 0) return { stage: "finish", seconds: null };
  // painted together, one mark is a step of each picture
  const each = stepS === null ? knownStepS : stepS * (state.together ? state.steps.length : 1);
  const seconds = each === null ? null : Math.max(each * (own + ahead) - sinceLast, 0);
  return { stage: state.steps[index] || !ahead ? "paint" : "wait", seconds };
}

/** Return the steps that are done before a picture is begun: those of others that are, or come first. */
function stepsAhead(steps, index, total) {
  return sum(steps.map((done, other) => (other !== index && (done || other < index) ? total - done : 0)));
}

/** Return the seconds a step of one picture took, for requests to come; null unless measured. */
export function measuredStep(state) {
  const stepS = pace(state.stepMarks);
  return stepS === null ? null : stepS * (state.together ? state.steps.length : 1);
}

export function inWords(seconds) {
  if (seconds < 1.5) return "about a second left";
  if (seconds < 90) return `about ${Math.round(seconds)} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}
