// node-rdpjs-2, a client in JavaScript: connect, and say the colour of each last pixel.
const [folder, port] = process.argv.slice(2);
const rdp = require(folder + '/node_modules/node-rdpjs-2');
const client = rdp.createClient({
  domain: '', userName: 'rdpjs', password: 'p', autoLogin: true, enablePerf: true,
  decompress: true, screen: { width: 800, height: 600 }, locale: 'en', logLevel: 'ERROR',
});
client.on('bitmap', (one) => {
  // 24 bit as sent, or blue, green, red and 255 where it was compressed
  const size = one.data.length === 4 * one.width * one.height ? 4 : 3;
  const [blue, green, red] = one.data.slice(-size);
  console.log('colour', red, green, blue);
});
client.on('error', (error) => { console.error(error); process.exit(1); });
client.on('close', () => process.exit(1));
client.connect('127.0.0.1', Number(port));
