// Medusa's inventory module as its own workflow calls it: `createReservationItems` under the locks of the items.
// Arguments: PostgreSQL's URL, orders, products, lines per order, orders at once. Prints one JSON object.
//
// It does less per order than the worker: no Kafka, no inbox, no ledger, no outgoing events, no payments.
import { randomInt } from "node:crypto"
import modulesSdk from "@medusajs/framework/modules-sdk"
import utils from "@medusajs/framework/utils"

const { MedusaApp } = modulesSdk
const { Modules } = utils

const STOCK = 1_000_000
const CHUNK = 1_000

const [clientUrl, ...numbers] = process.argv.slice(2)
const [orders, products, lines, atOnce] = numbers.map(Number)
// A lock holds a connection of its own for as long as its order takes.
const database = { clientUrl, driverOptions: { pool: { min: 2, max: atOnce * 4 } } }

const app = await MedusaApp({
  sharedResourcesConfig: { database },
  modulesConfig: {
    [Modules.INVENTORY]: { resolve: "@medusajs/inventory", options: { database } },
    [Modules.LOCKING]: {
      resolve: "@medusajs/locking",
      options: {
        database,
        providers: [{ resolve: "@medusajs/locking-postgres", id: "locking-postgres", is_default: true, options: { database } }],
      },
    },
  },
})
await app.runMigrations()
await app.onApplicationStart()
const inventory = app.modules[Modules.INVENTORY]
const locking = app.modules[Modules.LOCKING]

const location = "warehouse"
const items = []
for (let start = 0; start < products; start += CHUNK) {
  const chunk = Array.from({ length: Math.min(CHUNK, products - start) }, (_, place) => ({ sku: `SKU-${start + place}` }))
  const made = await inventory.createInventoryItems(chunk)
  await inventory.createInventoryLevels(
    made.map((item) => ({ inventory_item_id: item.id, location_id: location, stocked_quantity: STOCK })),
  )
  items.push(...made.map((item) => item.id))
}

// As the step `reserveInventoryStep` of Medusa's core flows does it.
async function reserve(number) {
  const wanted = Array.from({ length: lines }, () => items[randomInt(items.length)])
  const reservations = wanted.map((inventory_item_id, place) => ({
    inventory_item_id,
    location_id: location,
    quantity: 1,
    line_item_id: `order-${number}-${place}`,
  }))
  const keys = Array.from(new Set(wanted))
  await locking.execute(keys, () => inventory.createReservationItems(reservations))
}

let next = 0
let refused = 0
async function clerk(last) {
  while (next < last) {
    try {
      await reserve(next++)
    } catch {
      // Its locks are taken in no fixed order, so two orders can wait for each other; PostgreSQL ends one.
      refused += 1
    }
  }
}

async function serve(last) {
  await Promise.all(Array.from({ length: atOnce }, () => clerk(last)))
}

// The first orders let Node compile what it runs and open connections.
const warmUp = Math.ceil(orders / 4)
await serve(warmUp)
const refusedAtFirst = refused
const began = process.hrtime.bigint()
await serve(warmUp + orders)
const seconds = Number(process.hrtime.bigint() - began) / 1e9
const [, reservations] = await inventory.listAndCountReservationItems({}, { take: 1 })
const kept = orders - (refused - refusedAtFirst)
console.log(JSON.stringify({ kept, expected: (warmUp + orders - refused) * lines, reservations, seconds }))
process.exit(0)
