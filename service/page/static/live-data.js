// What Live keeps of /v1/recent: 15 minutes of seconds, and sums over any part of them.

/** Seconds that are kept, as the service does. */
export const KEPT_S = 900;

/** Codes of requests that the service could not serve; with all others the client must change something. */
export const SERVICE_CODES = new Set([
  "overloaded", "expired", "timed_out", "shutting_down", "device_memory", "device_lost", "device_stuck",
  "kernel_not_built", "kv_memory", "internal", "quota_exceeded", "quota",
]);

/** Rows of the last 15 minutes, from one or more answers of `/v1/recent`. */
export class Recent {
  constructor() {
    /** The last answer; null before the first. */
    this.answer = null;
    this.routes = [];
    /** Moments at which a process of the service has started, oldest first. */
    this.starts = [];
    /** Whether several processes answer in turn. */
    this.isMixed = false;
    this.#forget();
  }

  #forget() {
    this.rows = new Map();
    this.spans = [];
  }

  /** Query of the next request. */
  get query() {
    return this.answer ? `?after=${this.answer.until}` : "";
  }

  /** Add an answer. Rows of an earlier process stay; the time in between is unknown. */
  take(answer) {
    const last = this.answer;
    if (last && (answer.until < last.until || String(answer.bounds) !== String(last.bounds))) this.#forget();
    const ids = answer.routes.map((name) => this.#id(name));
    for (const values of answer.rows) {
      const row = Object.fromEntries(answer.columns.map((name, index) => [name, values[index]]));
      row.latency = row.latency.map((value, index) => (index % 3 ? value : ids[value]));
      this.rows.set(row.second, row);
    }
    const known = this.spans.at(-1);
    const from = Math.max(answer.oldest, known ? known[1] + 1 : 0);
    if (known && last.started === answer.started && answer.oldest <= known[1] + 1) known[1] = answer.until;
    else if (from <= answer.until) this.spans.push([from, answer.until]);
    if (answer.started < last?.started) this.isMixed = true;
    if (!this.starts.includes(answer.started)) this.starts.push(answer.started);
    this.answer = answer;
    this.#prune(answer.until - KEPT_S);
  }

  #prune(oldest) {
    for (const second of this.rows.keys()) if (second <= oldest) this.rows.delete(second);
    this.spans = this.spans.filter(([, to]) => to > oldest);
    this.starts = this.starts.filter((start) => start > oldest);
  }

  #id(name) {
    const known = this.routes.indexOf(name);
    return known < 0 ? this.routes.push(name) - 1 : known;
  }

  /** Number of seconds after `from` and up to `to` of which the service has said what happened. */
  known(from, to) {
    return this.spans.reduce((sum, [first, last]) => sum + Math.max(0, Math.min(to, last) - Math.max(from + 1, first) + 1), 0);
  }

  /** Sum the seconds after `from`, up to `to`. */
  sum(from, to) {
    const size = this.answer.bounds.length + 1;
    const sum = {
      from, to, known: this.known(from, to), requests: 0, answered: 0, wrong: 0, refused: 0,
      latency: new Float64Array(size), routes: new Map(), refusals: new Map(),
      request_s: 0, runs: 0, calls: 0, tokens: 0, wait_s: 0, copy_s: 0, compute_s: 0, busy_s: 0, messages: 0,
      wait_max_s: 0, depth: 0, memory_bytes: 0,
    };
    for (let second = from + 1; second <= to; second += 1) {
      const row = this.rows.get(second);
      if (row) addRow(sum, row, size);
    }
    return sum;
  }

  /** Sums of equal parts that cover the last `seconds`; their borders do not move with the time. */
  bins(seconds, size) {
    const end = this.answer.until;
    const first = Math.floor((end - seconds) / size);
    const count = Math.ceil(end / size) - first;
    return Array.from({ length: count }, (_, index) => this.sum((first + index) * size, (first + index + 1) * size));
  }
}

function addRow(sum, row, size) {
  let requests = 0;
  let answered = 0;
  let refused = 0;
  for (const [status, count] of Object.entries(row.statuses)) {
    requests += count;
    if (status === "OK" || Number(status) < 400) answered += count;
  }
  for (const [code, status, count] of row.refusals) {
    if (SERVICE_CODES.has(code)) refused += count;
    const known = sum.refusals.get(code) ?? { code, status, count: 0 };
    sum.refusals.set(code, Object.assign(known, { count: known.count + count, last: row.second }));
  }
  sum.requests += requests;
  sum.answered += answered;
  sum.refused += refused;
  sum.wrong += Math.max(0, requests - answered - refused);
  for (let i = 0; i < row.latency.length; i += 3) {
    const [route, bucket, count] = row.latency.slice(i, i + 3);
    if (!sum.routes.has(route)) sum.routes.set(route, new Float64Array(size));
    sum.routes.get(route)[bucket] += count;
    sum.latency[bucket] += count;
  }
  for (const name of ["request_s", "runs", "calls", "tokens", "wait_s", "copy_s", "compute_s", "busy_s", "messages"]) sum[name] += row[name];
  for (const name of ["wait_max_s", "depth", "memory_bytes"]) sum[name] = Math.max(sum[name], row[name]);
}

/** Number of values in a histogram. */
export function total(counts) {
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Index of the bucket that holds a quantile; -1 if there are no values. */
export function quantile(counts, share) {
  const rank = share * total(counts);
  let seen = 0;
  for (let index = 0; rank > 0 && index < counts.length; index += 1) {
    seen += counts[index];
    if (seen >= rank - 1e-9) return index;
  }
  return -1;
}

/** Shares of the time of all requests: waiting, copies, computing, and the rest. */
export function timeShares(sum) {
  const parts = [["wait", sum.wait_s], ["copy", sum.copy_s], ["compute", sum.compute_s]];
  const device = sum.wait_s + sum.copy_s + sum.compute_s;
  const whole = Math.max(sum.request_s, device);
  parts.push(["rest", whole - device]);
  return whole > 0 ? parts.map(([name, seconds]) => [name, seconds / whole]) : [];
}

/** What the headline says: `[name, values]`. `silent_s`: seconds without an answer. */
export function headline(recent, silent_s) {
  if (silent_s > 0) return ["silent", { n: silent_s }];
  const { answer } = recent;
  if (!answer) return ["connecting", {}];
  if (answer.phase !== "ready") {
    const { left_s, requests } = answer.drain ?? {};
    if (answer.phase === "draining" && answer.drain) return ["draining", { n: requests, seconds: Math.ceil(left_s) }];
    return [answer.phase, {}];
  }
  const now = recent.sum(answer.until - 10, answer.until);
  const [worst] = [...now.refusals.values()].filter(({ code }) => SERVICE_CODES.has(code)).sort((a, b) => b.count - a.count);
  if (worst) return ["refusing", { code: worst.code }];
  if (answer.queue.depth) return ["waiting", { n: answer.queue.depth }];
  if (now.depth && now.wait_max_s) return ["brief", { wait_s: now.wait_max_s }];
  const minute = recent.sum(answer.until - 60, answer.until);
  return [minute.requests + minute.messages ? "flowing" : "idle", {}];
}
