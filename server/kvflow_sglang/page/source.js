// Asks the server for views, one at a time, and says how that goes.

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 8000;
const PERIOD_MS = 1000;
const TIMEOUT_MS = 10000;
const KEY = "kvflow-key";

export class Source {
  // `question()` has an `address`, and comes back with its answer: `onView(answer, question)`.
  // `onState(state)`: "live", "lost", "locked" or "paused".
  constructor({ question, onView, onState }) {
    this.question = question;
    this.onView = onView;
    this.onState = onState;
    this.state = "";
    this.timer = 0;
    this.retry_ms = FIRST_RETRY_MS;
    this.asking = false;
    this.paused = false;
  }

  get key() {
    return sessionStorage.getItem(KEY);
  }

  set key(value) {
    sessionStorage.setItem(KEY, value);
    this.state = "";
    this.ask();
  }

  pause() {
    this.paused = true;
    clearTimeout(this.timer);
    this.become("paused");
  }

  resume() {
    this.paused = false;
    this.ask();
  }

  async ask() {
    clearTimeout(this.timer);
    this.again = this.asking;
    if (this.asking || document.hidden || this.paused) return;
    this.asking = true;
    let wait_ms = PERIOD_MS;
    try {
      const headers = this.key === null ? {} : { Authorization: `Bearer ${this.key}` };
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      const question = this.question();
      const response = await fetch(question.address, { headers, signal, cache: "no-store" });
      if (response.status === 401 || response.status === 403) {
        wait_ms = null;
        this.become("locked");
      } else if (!response.ok) {
        throw new Error(`status ${response.status}`);
      } else {
        const answer = await response.json();
        this.retry_ms = FIRST_RETRY_MS;
        if (!this.paused) {
          this.become("live");
          this.onView(answer, question);
        }
      }
    } catch {
      wait_ms = this.retry_ms;
      this.retry_ms = Math.min(2 * this.retry_ms, LAST_RETRY_MS);
      if (!this.paused) this.become("lost");
    }
    this.asking = false;
    if (this.again && wait_ms !== null) wait_ms = 0;
    if (wait_ms !== null && !this.paused) this.timer = setTimeout(() => this.ask(), wait_ms);
  }

  become(state) {
    if (state === this.state) return;
    this.state = state;
    this.onState(state);
  }
}
