//! Which events `everfold dump` is to show.

use everfold::Query;

use crate::query_text::query;

#[derive(clap::Args)]
pub(crate) struct Filter {
    /// Only events of this type. Given several times: of any of these types.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events that have this tag. Given several times: that have all of these tags.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only events of this stream.
    #[arg(long)]
    stream: Option<String>,
    /// Only events that match this query, such as 'type:sold,withdrawn tag:account:1; stream:cart-7' (--help says how
    /// it is written).
    ///
    /// A query is made of items separated by `;`, and an event has to match one of them. An item is made of parts
    /// separated by blanks, and an event has to match all of them: `type:T`, or `type:T,U` for one of several types;
    /// `tag:T`; `stream:S`. A name with a blank, a comma, a semicolon or a quotation mark is put between quotation
    /// marks, in which \" and \\ stand for the characters themselves.
    ///
    /// For example: 'type:sold,withdrawn tag:account:1; tag:"big spender" stream:cart-7'
    #[arg(long, value_name = "EXPR", value_parser = query)]
    query: Option<Query>,
}

/// The ids of the options, for those that do not go with them.
pub(crate) const OPTIONS: [&str; 4] = ["types", "tags", "stream", "query"];

impl Filter {
    /// The options as queries; an event has to match both of them.
    pub(crate) fn queries(&self) -> [Query; 2] {
        let mut named = Query::all().types(self.types.iter().cloned()).tags(self.tags.iter().cloned());
        if let Some(stream) = &self.stream {
            named = named.stream(stream);
        }
        [named, self.query.clone().unwrap_or_else(Query::all)]
    }
}
