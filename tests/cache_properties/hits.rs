//! A hit gives what running would have given: builds made up by chance, each found again in every place that keeps results.
//!
//! PLYWOOD_CASES says how many, PLYWOOD_SEED with which number the first one is made; the second has the number after it.

use std::path::Path;

use crate::recipe::{Random, Recipe};
use crate::scene::{EPOCH, Scene, Work, all_cached, difference, side_by_side};

const CASES: u64 = 200;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn a_hit_is_what_running_would_have_given() {
    let scene = Scene::new();
    let now = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    let (first, many) = (number("PLYWOOD_SEED").unwrap_or_else(now), number("PLYWOOD_CASES").unwrap_or(CASES));
    let seeds: Vec<u64> = (0..many).map(|case| first.wrapping_add(case)).collect();
    let again = |seed: &u64| format!("PLYWOOD_SEED={seed} PLYWOOD_CASES=1");
    side_by_side(&seeds, again, |seed| {
        let mut random = Random(*seed);
        let mut recipe = Recipe::new(&mut random);
        let ended = holds(&scene.work(), &mut recipe, &mut random);
        ended.map_err(|why| format!("{:?}\n{}{why}", recipe.words(), recipe.text()))
    });
}

fn holds(work: &Work<'_>, recipe: &mut Recipe, random: &mut Random) -> Result<(), String> {
    recipe.lay(work);
    let timeless = recipe.steady;
    let build = |machine: &str, words: &[String]| {
        if timeless { work.timeless(machine, words) } else { work.build(machine, words) }
    };
    let same = |what: &str, one: &Path, other: &Path| match difference(one, other) {
        None => Ok(()),
        Some(difference) => Err(format!("{what} gives another image:\n{difference}")),
    };
    let told = recipe.words();
    let with = |more: &[String]| -> Vec<String> { told.iter().chain(more).cloned().collect() };

    let first = build("first", &with(&work.fills()))?;
    // The times of the first are in the image, so that what is pushed is of its steps.
    let epoch = if timeless { vec![EPOCH.to_owned()] } else { Vec::new() };
    work.publish("first", &all_cached(&with(&epoch)))?;
    same("the machine's own store", &first, &build("first", &all_cached(&with(&[])))?)?;
    for (number, from) in work.reads("first").into_iter().enumerate() {
        let hit = build(&format!("other-{number}"), &all_cached(&with(&from)))?;
        same(&format!("a hit from {from:?}"), &first, &hit)?;
    }
    if !recipe.steady {
        return Ok(());
    }
    let no_cache = ["--no-cache".to_owned()];
    same("running it again", &first, &build("fresh", &with(&no_cache))?)?;

    for change in ["one", "two", "three"] {
        let changed = recipe.change(random);
        recipe.lay(work);
        let told = recipe.words();
        let with = |more: &[String]| -> Vec<String> { told.iter().chain(more).cloned().collect() };
        let expected = build("fresh", &with(&no_cache))?;
        let caches = work.reads("first");
        let cache = caches[random.below(caches.len())].clone();
        for (machine, from) in [("first", vec![]), (change, cache)] {
            let built = build(machine, &with(&from))?;
            same(&format!("after a change of {changed}, the cache {from:?}"), &expected, &built)?;
        }
        same("what was made after a change", &expected, &build("first", &all_cached(&with(&[])))?)?;
    }
    Ok(())
}
