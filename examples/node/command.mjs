// What the programs here have in common as commands: options with help, numbers, errors in one line.

import { parseArgs } from "node:util";

/** What the user can put right: said in one line, without a stack; exit status 2. */
export class UserError extends Error {}

/**
 * Run `main(positional, options)` and exit. `usage` is what to type, `known` the options: {name: [default, help]}, with
 * undefined for no default. What is typed arrives as text.
 */
export async function run(main, usage, known) {
  try {
    const options = Object.fromEntries(Object.keys(known).map((name) => [name, { type: "string" }]));
    const { values, positionals } = parse({ ...options, help: { type: "boolean", short: "h" } });
    if (values.help) {
      console.log(`usage: ${usage}\n`);
      for (const [name, [standard, help]] of Object.entries(known)) {
        const otherwise = standard === undefined ? "" : ` (default: ${JSON.stringify(standard)})`;
        console.log(`  --${name.padEnd(13)} ${help}${otherwise}`);
      }
      process.exit();
    }
    if (positionals.length !== 1) throw new UserError(`one thing is needed: ${usage}`);
    const defaults = Object.fromEntries(Object.entries(known).map(([name, [standard]]) => [name, standard]));
    await main(positionals[0], { ...defaults, ...values });
    process.exit(); // TensorFlow.js keeps threads
  } catch (error) {
    console.error(error instanceof UserError ? `error: ${error.message}` : error);
    process.exit(error instanceof UserError ? 2 : 1);
  }
}

/** The number that the text of an option stands for. Throws UserError if it is none, or below `least`. */
export function toNumber(name, text, least) {
  const value = Number(text);
  if (text.trim() === "" || !(value >= least && value < Infinity)) {
    throw new UserError(`--${name} ${text} is not a number from ${least} up`);
  }
  return value;
}

/** The same of a whole number. */
export function toCount(name, text, least) {
  const value = toNumber(name, text, least);
  if (!Number.isInteger(value)) throw new UserError(`--${name} ${text} is not a whole number`);
  return value;
}

function parse(options) {
  try {
    return parseArgs({ allowPositionals: true, options });
  } catch (error) {
    throw new UserError(`${error.message.split(". ")[0]}; --help shows the options`);
  }
}
