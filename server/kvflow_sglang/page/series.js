// The last samples of something over time: never more than `most`, however long the page is open.

export class Series {
  constructor(most = 900) {
    this.most = most;
    this.times = [];
    this.samples = [];
  }

  push(time_s, sample) {
    this.times.push(time_s);
    this.samples.push(sample);
    if (this.times.length > this.most) {
      this.times.shift();
      this.samples.shift();
    }
  }
}
