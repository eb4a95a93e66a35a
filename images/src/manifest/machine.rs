// SPDX-License-Identifier: Apache-2.0
//! Facts of the captured machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the source machine was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineFacts {}
