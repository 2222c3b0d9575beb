//! The contract in Rust, generated from `wit/`. Nothing else stands here; `convert` is the only reader of its types.

/// Every import, once, so that all worlds share one set of types.
pub(crate) mod shared {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "host-shared",
        imports: {
            "plywood:plugin/http-client": async | trappable,
            "plywood:plugin/native-helper": async | trappable,
            default: trappable,
        },
        with: {
            "plywood:plugin/stage-view.stage": crate::state::StageHandle,
            "plywood:plugin/secrets.secret": crate::state::SecretHandle,
        },
        additional_derives: [Clone],
    });
}

/// Plugins that give instructions their meaning.
pub(crate) mod instruction {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "instruction-plugin",
        exports: { default: async },
        with: { "plywood:plugin": super::shared::plywood::plugin },
        additional_derives: [Clone],
    });
}

/// Plugins that decide what a cache key is made of.
pub(crate) mod cache_policy {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "cache-policy-plugin",
        exports: { default: async },
        with: { "plywood:plugin": super::shared::plywood::plugin },
        additional_derives: [Clone],
    });
}

/// Plugins that know who the user is at a registry.
pub(crate) mod credential {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "credential-plugin",
        exports: { default: async },
        with: { "plywood:plugin": super::shared::plywood::plugin },
        additional_derives: [Clone],
    });
}
