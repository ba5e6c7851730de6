// Couplets as rhymes.py writes them: two words that rhyme, and a model that goes on from each to the start of its line.
"use strict";

const WORDS = { least: 4, most: 12 }; // in a line, as in rhymes.py
const LETTERS = 100; // after which a line is given up
const TRIES = 40; // for a line, of which the first
const CANDIDATES = 12; // good ones are compared
const [BEGIN, END] = ["___BEGIN__", "___END__"]; // markovify's

const WORD = /\p{L}+(?:['-]\p{L}+)*/gu;
const VOWELS = /[aeiouyäöüàáâèéêìíîòóôùúû]+/g;
const SILENT = /(?<=[^aeiouyl])e$|(?<=[^aeiouydt])e(?=d$)|(?<=[bdfkmnprtv])e(?=s$)/; // the e of here, heaped, comes
const FULL_STOP = /[.!?…]$/; // for the second line
const NO_STOP = /[^.!?…]$/; // for the first

// -- rhymes

/** Two words that rhyme, of rhymes.json's groups; often those that often end a line. */
function rhymingPair(groups) {
  const entries = Object.values(groups).flat();
  const first = drawn(entries, weight);
  const group = Object.values(groups).find((words) => words.includes(first));
  const partners = group.filter((other) => !other.after.some((sound) => first.after.includes(sound)));
  return [first, drawn(partners, weight)];
}

function weight(entry) {
  return Math.sqrt(Object.values(entry.ends).reduce((sum, count) => sum + count));
}

/** How a line may end with the word: "love," or "love." */
function ending(entry, mark) {
  const all = Object.entries(entry.ends);
  const fit = all.filter(([end]) => mark.test(end));
  return drawn(fit.length ? fit : all, ([, count]) => count)[0];
}

function drawn(choices, weigh) {
  let rest = Math.random() * choices.reduce((sum, choice) => sum + weigh(choice), 0);
  return choices.find((choice) => (rest -= weigh(choice)) < 0) ?? choices[choices.length - 1];
}

// -- the two that write. A writer has `line(end, below, show)`: a promise of a line, or of "" if it came to nothing;
// `below` is the line that will stand under it, and `show` is called with what there is while it grows.

/** markov.json, as markovify wrote it: to each two words, what came before them and how often. */
class Markov {
  constructor({ chain, parsed_sentences: sentences }) {
    this.before = new Map(JSON.parse(chain).map(([words, counts]) => [words.join(" "), Object.entries(counts)]));
    this.text = sentences.map((words) => words.join(" ")).join(" ");
  }

  async line(end) {
    const words = [end];
    let state = [BEGIN, end];
    while (words.length <= WORDS.most) {
      const following = this.before.get(state.join(" "));
      if (!following) return "";
      const [word] = drawn(following, ([, count]) => count);
      if (word === END) return this.copied(words) ? "" : words.reverse().join(" ");
      words.push(word);
      state = [state[1], word];
    }
    return "";
  }

  /** Whether more than 7 of 10 words stand in the text in this order: markovify's own test. */
  copied(words) {
    const run = Math.round(0.7 * words.length) + 1;
    const last = Math.max(1, words.length - run + 1);
    return Array.from({ length: last }, (_, at) => words.slice(at, at + run).join(" ")).some((part) =>
      this.text.includes(part),
    );
  }
}

/** The LSTM in ml5.js, one character at a time, from right to left. Only one line at a time. */
class Lstm {
  constructor(rnn) {
    this.rnn = rnn;
    this.temperature = 0.6;
    this.blank = { ...rnn.state };
    this.memory = this.blank; // the state after `below` and the end of a line
    this.below = null;
  }

  async line(end, below, show) {
    await this.remember(below);
    return this.scope(async () => {
      this.rnn.state = { ...this.memory }; // a new one: ml5.js' own reset() forgets nothing
      await this.read(end);
      let line = end;
      while (line.length < LETTERS) {
        const { sample } = await this.rnn.predict(this.temperature);
        if (sample === undefined) return ""; // too low a temperature for 32-bit numbers
        if (sample === "\n") return line;
        line = sample + line;
        await show(line);
        await this.read(sample);
      }
      return "";
    });
  }

  /** Read the lines below, unless they are those that were read last. */
  async remember(below) {
    if (below === this.below) return;
    const before = this.memory;
    await this.scope(async () => {
      this.rnn.state = { ...this.blank };
      await this.read(`\n${below}`);
      this.memory = { ...this.rnn.state };
      [...this.memory.c, ...this.memory.h].forEach((tensor) => ml5.tf.keep(tensor));
    });
    this.below = below;
    if (before !== this.blank) [...before.c, ...before.h].forEach((tensor) => tensor.dispose());
  }

  /** Read a text from its end to its beginning. Of several characters at once, ml5.js would feed the first twice. */
  async read(text) {
    for (const character of [...text].reverse()) {
      if (character in this.rnn.vocab) await this.rnn.feed([character]);
    }
  }

  /** Run something in a scope of TensorFlow.js: ml5.js leaves 13 tensors behind for each character. */
  async scope(run) {
    const engine = ml5.tf.engine();
    engine.startScope();
    try {
      return await run();
    } finally {
      this.rnn.state = { ...this.blank };
      engine.endScope();
    }
  }
}

// -- couplets

/** What new lines are compared with: those of the text, which words follow each other there, how long they are. */
class Known {
  constructor({ parsed_sentences: sentences }) {
    this.lines = new Set(sentences.map((words) => [...words].reverse().join(" ")));
    this.pairs = new Set([...this.lines].flatMap(neighbours));
    const lengths = [...this.lines].map(syllables).sort((a, b) => a - b);
    this.length = lengths[Math.floor(lengths.length / 2)]; // in syllables
  }

  /** A line of the text, to begin below. */
  line() {
    return [...this.lines][Math.floor(Math.random() * this.lines.size)];
  }
}

/** Two lines that end in these two words, or null. The second comes first: the first leads to it. */
async function couplet(writer, [first, second], known, show = async () => {}) {
  const under = known.line();
  const below = await bestLine(writer, second, FULL_STOP, known, under, known.length, (line) => show(["", line]));
  if (!below) return null;
  const lines = `${below}\n${under}`;
  const goal = syllables(below);
  const above = await bestLine(writer, first, NO_STOP, known, lines, goal, (line) => show([line, below]));
  return above && [above, below];
}

/** Of some lines that end in the word, the one with the fewest words that follow each other as never in the text, and
 * about as long as `wanted`. */
async function bestLine(writer, entry, mark, known, below, wanted, show) {
  const unheard = (line) => neighbours(line).filter((pair) => !known.pairs.has(pair)).length;
  const fault = (line) => 2 * unheard(line) + Math.abs(syllables(line) - wanted);
  let [best, found] = [null, 0];
  for (let tries = 0; tries < TRIES && found < CANDIDATES; tries += 1) {
    const line = await writer.line(ending(entry, mark), below, show);
    const count = line.split(" ").filter(Boolean).length;
    if (count < WORDS.least || count > WORDS.most || known.lines.has(line) || lastWord(line) !== entry.word) continue;
    found += 1;
    if (best === null || fault(line) < fault(best)) best = line;
    if (fault(best) === 0) break;
  }
  return best;
}

/** Each word with the one before it; the first with whether the line starts with a capital. */
function neighbours(line) {
  const words = wordsOf(line);
  const start = /^\p{Lu}/u.test(line) ? "^" : "";
  return words.map((word, place) => `${words[place - 1] ?? start} ${word}`);
}

function wordsOf(line) {
  return line.toLowerCase().match(WORD) ?? [];
}

function lastWord(line) {
  const found = wordsOf(line.slice(line.lastIndexOf(" ") + 1));
  return found.length === 1 ? found[0] : "";
}

/** About how many: the groups of vowels, without a silent e. */
function syllables(line) {
  const vowels = (word) => word.replace(SILENT, "").match(VOWELS) ?? [];
  return wordsOf(line).reduce((sum, word) => sum + Math.max(1, vowels(word).length), 0);
}
