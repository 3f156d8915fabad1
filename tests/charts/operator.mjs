// Validates documents of the Prometheus operator's kinds: a JSON list on stdin, one problem a line on stdout.
// The models are in the folder from which it is run, target/charts.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const models = await import(pathToFileURL(join(process.cwd(), 'node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/index.js')));

let text = '';
for await (const chunk of process.stdin) text += chunk;
for (const document of JSON.parse(text)) {
  const name = `${document.kind}/${document.metadata.name}`;
  try {
    if (!models[document.kind]) throw new Error('no schema');
    new models[document.kind](document).validate();
  } catch (error) {
    console.log(`${name}: ${error.message}`);
  }
}
