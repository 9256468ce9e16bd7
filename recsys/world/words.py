"""The words that invented titles are made of: adjectives and nouns per category, and places for all."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """Vocabulary of one category."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]


def _words(adjectives: str, nouns: str) -> Words:
    return Words(tuple(adjectives.split()), tuple(nouns.split()))


CATEGORIES: dict[str, Words] = {
    "Space": _words(
        "Orbital Distant Silent Stellar Frozen Drifting Nineteenth Weightless Solar Outer",
        "Beacon Station Signal Voyage Comet Airlock Colony Satellite Probe Horizon Crew Telescope",
    ),
    "Mystery": _words(
        "Missing Locked Vanished Unsigned Hidden Second Quiet Borrowed Forged Midnight",
        "Letter Witness Alibi Key Portrait Cellar Clue Footprint Stranger Cipher Verdict Parcel",
    ),
    "Heist": _words(
        "Perfect Golden Crooked Swift Velvet Impossible Painted Hollow Marked Final",
        "Vault Getaway Diamond Blueprint Driver Score Lookout Ledger Safe Tunnel Decoy Casino",
    ),
    "Romance": _words(
        "Tender Unexpected Late Gentle Summer Reluctant Written Secret Patient Second",
        "Promise Wedding Waltz Postcard Kiss Garden Confession Proposal Dance Reunion Heart Serenade",
    ),
    "Comedy": _words(
        "Clumsy Accidental Awkward Noisy Terrible Cheerful Overbooked Unlikely Hopeless Wobbly",
        "Neighbours Wedding Landlord Roommate Holiday Interview Parrot Barbecue Carpool Cousin Moustache Pancake",
    ),
    "Horror": _words(
        "Whispering Rotten Pale Hungry Crawling Forgotten Blind Bleeding Restless Buried",
        "Attic Doll Well Orchard Mirror Staircase Scarecrow Choir Lullaby Chapel Nursery Fog",
    ),
    "History": _words(
        "Last Fallen Iron Exiled Burning Crowned Forgotten Loyal Divided Bronze",
        "Empire Treaty Queen Siege Rebellion Messenger Throne Harvest Legion Cathedral Archive Armada",
    ),
    "Nature": _words(
        "Wild Migrating Hidden Ancient Rising Deep Endless Singing Melting Green",
        "River Forest Heron Glacier Reef Savanna Wolves Meadow Whale Canopy Tundra Monsoon",
    ),
    "Music": _words(
        "Electric Broken Loud Unplugged Velvet Golden Analog Wandering Restless Blue",
        "Chord Chorus Record Drummer Melody Encore Vinyl Trumpet Rhythm Soundcheck Refrain Microphone",
    ),
    "Sport": _words(
        "Underdog Final Relentless Golden Extra Muddy Unbeaten Rookie Uphill Long",
        "Season Sprint Penalty Marathon Captain Goalkeeper Overtime Relay Coach Podium Comeback Stadium",
    ),
    "Cooking": _words(
        "Spicy Burnt Slow Humble Smoky Sweet Salted Hungry Pickled Roasted",
        "Kitchen Dumpling Chef Recipe Bakery Ladle Orchard Noodle Supper Oven Market Saffron",
    ),
    "Fantasy": _words(
        "Enchanted Crystal Sleeping Cursed Winged Silver Hollow Thirteenth Wandering Thorned",
        "Dragon Sword Tower Wizard Kingdom Amulet Prophecy Griffin Oath Labyrinth Witch Lantern",
    ),
    "Western": _words(
        "Dusty Lonesome Crooked Wanted Rusty Scarlet Long Outlaw Bitter Broken",
        "Saloon Sheriff Canyon Stagecoach Rider Bounty Ranch Spur Prairie Showdown Railroad Revolver",
    ),
    "Robots": _words(
        "Obsolete Curious Runaway Copper Patient Rebooted Clockwork Lonely Binary Borrowed",
        "Machine Android Circuit Automaton Upgrade Drone Algorithm Battery Prototype Foundry Sensor Gardener",
    ),
    "Family": _words(
        "Little Brave Muddy Rainy Crowded Sleepy Secret Borrowed Lost Happy",
        "Treehouse Puppy Grandmother Birthday Sandcastle Bicycle Kite Picnic Sisters Backpack Pirate Snowman",
    ),
    "Spy": _words(
        "Double Cold Encrypted Burned Invisible Foreign Sleeper Stolen Quiet Deep",
        "Agent Passport Embassy Dossier Handler Courier Defector Microfilm Asset Rendezvous Cover Codename",
    ),
}

PLACES: tuple[str, ...] = (
    "Amber Bay", "Ashford", "Birch Hollow", "Calder", "Copper Hill", "Dovecote Lane", "Eastmere", "Fallow Creek",
    "Greywater", "Harrow", "Juniper Street", "Kestrel Point", "Larkspur", "Marlow Bridge", "Nightingale Square",
    "Old Harbour", "Pinecrest", "Quarry Road", "Rosefield", "Saltmarsh", "Thornbury", "Upper Vale", "Windmere",
    "Yarrow",
)  # fmt: skip
